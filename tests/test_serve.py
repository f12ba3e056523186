"""``serve``: a real server on loopback, asked as programs and people ask."""

import base64
import io
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from fmnist import FashionMNIST, load
from tests.conftest import ROOT, spawn, start

RUN = "lightning_logs/version_0"


@pytest.fixture(scope="module")
def place(tested):
    """A folder with a run on the real images."""
    return tested


class Served:
    def __init__(self, place, *words, **environment):
        self.process = start("serve", "--port=0", *words, cwd=place, **environment)
        line = self.process.stdout.readline()
        assert line.startswith("serve: lightning_logs/version_0/checkpoints/best.ckpt on http://"), line
        self.url = line.split()[-1]

    def ask(self, content, path="/predict", **headers):
        """Returns the status and the answer."""
        request = urllib.request.Request(self.url + path, content, headers)
        request.add_unredirected_header("Content-Type", headers.get("Content-Type", "application/octet-stream"))
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=10)
        assert not err
        return self.process.returncode


@pytest.fixture(scope="module")
def served(place):
    served = Served(place)
    yield served
    assert served.stop() == 143


@pytest.fixture(scope="module")
def pictures(real_root):
    """Test images as PNG files."""
    files = []
    for image in FashionMNIST(real_root).load(train=False)[0][:300]:
        file = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(file, format="PNG")
        files.append(file.getvalue())
    return files


def test_the_server_says_what_the_model_says(served, place, pictures):
    expected = load(place / RUN).classify([*pictures])
    with ThreadPoolExecutor(8) as pool:
        answers = [json.loads(body) for status, body in pool.map(served.ask, pictures) if status == 200]
    assert [answer[0]["label"] for answer in answers] == [prediction.name for prediction in expected]
    assert answers[0][0]["score"] == pytest.approx(expected[0].probability, abs=1e-6)
    assert sum(row["score"] for row in answers[0]) == pytest.approx(1, abs=1e-5)
    scores = [row["score"] for row in answers[0]]
    assert scores == sorted(scores, reverse=True)


def form(files):
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{number}.png"\r\n\r\n'.encode() + file + b"\r\n"
        for number, file in enumerate(files)
    ]
    return b"".join(parts) + b"--x--\r\n"


def test_every_way_to_ask(served, pictures):
    alone = json.loads(served.ask(pictures[0])[1])
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert json.loads(served.ask(form(pictures[:1]), **kind)[1]) == alone
    assert json.loads(served.ask(form(pictures[:3]), **kind)[1])[0] == alone
    asked = {"inputs": base64.b64encode(pictures[0]).decode(), "parameters": {"top_k": 2}}
    json_kind = {"Content-Type": "application/json"}
    assert json.loads(served.ask(json.dumps(asked).encode(), **json_kind)[1]) == alone[:2]
    assert json.loads(served.ask(pictures[0], "/predict?top_k=1")[1]) == alone[:1]
    whole = json.loads(served.ask(pictures[0], "/predict?note=true&seen=1")[1])
    assert whole["predictions"] == alone
    assert len(base64.b64decode(whole["seen"])) == 784
    assert 0 <= whole["typicality"] <= 1
    file = io.BytesIO()
    Image.new("RGB", (50, 50), "white").save(file, format="PNG")
    empty = json.loads(served.ask(file.getvalue(), "/predict?note=1")[1])
    assert empty == {"predictions": [], "note": "nothing but background", "typicality": None}
    status, body = served.ask(None, "/health")
    assert (status, json.loads(body)) == (200, {"status": "ok"})
    assert served.ask(None, "/docs")[0] == 404


@pytest.mark.parametrize(
    ("content", "kind", "code", "said"),
    [
        (b"", "image/png", 415, "not a picture"),
        (b"no picture", "image/png", 415, "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "image/png", 415, "picture"),
        (b"x" * 20_000_001, "image/png", 413, "20 MB"),
        (b"{", "application/json", 422, "inputs"),
        (b"[1]", "application/json", 422, "inputs"),
        (b'{"inputs": "***"}', "application/json", 422, "inputs"),
        (b'{"inputs": "", "parameters": {"top_k": -1}}', "application/json", 422, "top_k"),
        (b"[" * 100_000, "application/json", 422, "inputs"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 422, "no file"),
        (b"", "multipart/form-data", 422, "form"),
        (form([b"no picture"] * 17), "multipart/form-data; boundary=x", 422, "form"),
    ],
)
def test_mistakes_cost_one_line(served, content, kind, code, said):
    status, body = served.ask(content, **{"Content-Type": kind})
    assert status == code
    assert said in json.loads(body)["detail"]


def test_slow_and_silent_senders_are_let_go(served, pictures):
    address = served.url.removeprefix("http://").split(":")
    silent = [socket.create_connection((address[0], int(address[1]))) for _ in range(200)]
    slow = socket.create_connection((address[0], int(address[1])))
    slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    assert served.ask(pictures[0])[0] == 200, "nobody else waits for them"
    slow.settimeout(20)
    assert b"408" in slow.recv(1000)
    for connection in silent:
        connection.settimeout(20)
        assert connection.recv(1) == b""
        connection.close()
    slow.close()


def test_more_requests_than_it_holds_are_sent_away(served, pictures):
    host, port = served.url.removeprefix("http://").split(":")
    begun = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"
    connections = [socket.create_connection((host, int(port))) for _ in range(64)]
    for connection in connections:
        connection.sendall(begun)
    wait_for(lambda: served.ask(pictures[0])[0] == 503)
    assert json.loads(served.ask(pictures[0])[1])["detail"] == "too many requests at once: try again"
    assert served.ask(None, "/health")[0] == 200
    for connection in connections:
        connection.close()
    wait_for(lambda: served.ask(pictures[0])[0] == 200)


def test_senders_who_leave_are_not_worth_a_word(place, pictures):
    served = Served(place)
    host, port = served.url.removeprefix("http://").split(":")
    whole = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(pictures[0]) + pictures[0]
    boundary = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    for begun in (whole, whole[:-10], whole[:40], boundary + b"Content-Length: 99\r\n\r\n--x\r\n"):
        for _ in range(8):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(begun)
    assert served.ask(pictures[0])[0] == 200
    assert served.stop() == 143, "and nothing on standard error"


def wait_for(happened):
    end = time.monotonic() + 5
    while not happened():
        assert time.monotonic() < end, "it has not happened in five seconds"
        time.sleep(0.1)


def test_the_page_asks_the_server(served, place, browser):
    said = []
    with browser.new_context() as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: said.append(request.url))
        page.goto(served.url)
        page.set_input_files("#file", str(ROOT / "docs/boot.png"))
        page.wait_for_function("() => document.getElementById('note').textContent === 'light background: inverted'")
        expected = load(place / RUN).classify(ROOT / "docs/boot.png")
        assert page.inner_text("#result").startswith(f"{expected.name}, ")
    assert all(text.startswith((served.url, "data:", "blob:")) for text in said)


def test_a_token_is_asked_for(place, pictures):
    served = Served(place, FMNIST_TOKEN="secret")
    assert served.ask(pictures[0])[0] == 401
    assert served.ask(pictures[0], Authorization="Bearer wrong")[0] == 401
    assert served.ask(pictures[0], Authorization="Bearer secret")[0] == 200
    assert served.ask(None, "/health")[0] == 200
    assert served.stop() == 143


def test_listening_for_other_machines_without_a_token_is_said(place, pictures):
    served = Served(place, "--host=0.0.0.0")
    served.url = served.url.replace("0.0.0.0", "127.0.0.1")
    assert served.ask(pictures[0])[0] == 200
    served.process.send_signal(signal.SIGTERM)
    _, err = served.process.communicate(timeout=10)
    assert err == "notice: other machines can reach this, and no --token is asked for\n"


def test_what_was_accepted_is_answered_when_the_server_is_stopped(place, pictures):
    served = Served(place)
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(served.ask, picture) for picture in pictures[:60]]
        time.sleep(0.2)
        started = time.monotonic()
        assert served.stop() == 143
        assert time.monotonic() - started < 5
        answers = [future.exception() or future.result() for future in asked]
    done = [answer for answer in answers if isinstance(answer, tuple)]
    assert done
    assert all(status == 200 for status, _ in done)
    others = [answer for answer in answers if not isinstance(answer, tuple)]
    assert all("refused" in str(error) or "reset" in str(error) for error in others), others


def test_a_port_that_is_taken_costs_one_line(place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = spawn("serve", f"--port={taken.getsockname()[1]}", cwd=place)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "give another --port" in done.stderr
