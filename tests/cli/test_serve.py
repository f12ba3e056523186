"""``serve``: a real server on loopback, as programs and people use it."""

import base64
import contextlib
import http.client
import io
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from fmnist import FashionMNIST, load
from tests.conftest import ROOT, spawn, start
from tests.forkserver import Popen

resource = pytest.importorskip("resource")  # Windows has none
pytestmark = pytest.mark.signals
RUN = "lightning_logs/version_0"
FORM, JSON, RAW = "multipart/form-data; boundary=x", "application/json", "application/octet-stream"
HALF = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"


@pytest.fixture(scope="module")
def workdir(tested):
    """A folder with a run on the real images."""
    return tested


class Served:
    def __init__(self, workdir, *args, popen=Popen, **environment):
        self.process = start("serve", "--port=0", *args, cwd=workdir, popen=popen, **environment)
        line = self.process.stdout.readline()
        assert line.startswith("serve: lightning_logs/version_0/checkpoints/best.ckpt on http://"), line
        self.port = int(line.rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, content, path="/predict", kind=RAW, method=None, **headers):
        """Returns the status and the answer, which is read when all has been sent."""
        headers = {"Content-Type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, content, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def connect(self, content=b""):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(content)
        return connection

    @contextlib.contextmanager
    def quick(self, longest=2):
        """Asks for /health all the time, which must be answered soon."""
        seconds, done = [0.0], threading.Event()

        def ask():
            while not done.wait(0.02):
                started = time.monotonic()
                assert self.ask(None, "/health")[0] == 200
                seconds.append(time.monotonic() - started)

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask)
            yield
            done.set()
            asked.result()
        assert max(seconds) < longest

    def memory(self):
        """Returns the memory of the process in MB."""
        return int(Path(f"/proc/{self.process.pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1000

    def stop(self, err=""):
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=10)
        assert errors == err
        return self.process.returncode


@pytest.fixture(scope="module")
def served(workdir):
    """A server, to which somebody has begun to send a request; tests that are at the end need not wait for that."""
    served = Served(workdir)
    served.slow = served.connect(HALF % (100, b"abc"))
    yield served
    served.slow.close()
    assert served.stop() == 143, "and nothing on standard error"


@pytest.fixture(scope="module")
def guarded(workdir):
    """A server for others: with a token as a secret file has it, and behind a tunnel."""
    args = ("--host=::", "--allowed_host", "tunnel.example", "*.docker", "--allowed_origin", "https://example.org")
    served = Served(workdir, *args, FMNIST_TOKEN="secret\n")
    yield served
    assert served.stop() == 143


@pytest.fixture(scope="module")
def pictures(real_root):
    """Test images as PNG files."""
    return [encode(Image.fromarray(image[0].numpy())) for image in FashionMNIST(real_root).load(train=False)[0][:300]]


def encode(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo():
    """A JPEG as a camera writes it; there are line ends in it."""
    return encode(Image.effect_noise((300, 200), 90).convert("RGB"), "JPEG")


def form(*parts):
    """Makes a form of files, and of fields, which have names."""
    made = []
    for number, part in enumerate(parts):
        name, content = part if isinstance(part, tuple) else (f'file"; filename="{number}.png', part)
        made.append(f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n")
    return b"".join(made) + b"--x--\r\n"


def as_json(inputs, **parameters):
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode()


def text(picture):
    return base64.b64encode(picture).decode()


def labels(answer):
    """Returns the classes of an answer that must be right."""
    status, body = answer
    assert status == 200, body
    return [row["label"] for row in json.loads(body)]


def detail(answer):
    return json.loads(answer[1])["detail"]


def test_the_server_gives_the_answers_of_the_model(served, workdir, pictures):
    expected = load(workdir / RUN).classify([*pictures])
    with ThreadPoolExecutor(8) as pool:
        answers = [json.loads(body) for status, body in pool.map(served.ask, pictures) if status == 200]
    assert [answer[0]["label"] for answer in answers] == [prediction.name for prediction in expected]
    assert answers[0][0]["score"] == pytest.approx(expected[0].probability, abs=1e-6)
    assert sum(row["score"] for row in answers[0]) == pytest.approx(1, abs=1e-5)
    scores = [row["score"] for row in answers[0]]
    assert scores == sorted(scores, reverse=True)


def test_every_way_to_send_a_picture(served, pictures):
    single = json.loads(served.ask(pictures[0])[1])
    assert json.loads(served.ask(pictures[0], kind="image/png")[1]) == single
    assert json.loads(served.ask(form(pictures[0]), kind=FORM)[1]) == single
    assert json.loads(served.ask(form(*pictures[:3]), kind=FORM)[1])[0] == single
    assert json.loads(served.ask(as_json(text(pictures[0]), top_k=2), kind=JSON)[1]) == single[:2]
    assert json.loads(served.ask(as_json([*map(text, pictures[:2])]), kind=JSON)[1])[0] == single
    assert json.loads(served.ask(pictures[0], "/predict?top_k=1")[1]) == single[:1]
    whole = json.loads(served.ask(pictures[0], "/predict?note=true&seen=1")[1])
    assert whole["predictions"] == single
    assert len(base64.b64decode(whole["seen"])) == 784
    assert 0 <= whole["typicality"] <= 1
    empty = json.loads(served.ask(encode(Image.new("RGB", (50, 50), "white")), "/predict?note=1")[1])
    assert empty == {"predictions": [], "note": "nothing but background", "typicality": None}
    assert served.ask(None, "/docs")[0] == 404


@pytest.mark.parametrize(
    ("content", "kind", "code", "message"),
    [
        (b"", "image/png", 415, "not a picture"),
        (b"no picture", "image/png", 415, "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "image/png", 415, "picture"),
        (encode(Image.new("L", (28, 28)))[:-30], "image/png", 422, "damaged"),
        (b"x" * 20_000_001, "image/png", 413, "20 MB"),
        (b"{", JSON, 422, "inputs"),
        (b"[1]", JSON, 422, "inputs"),
        (b"\xff", JSON, 422, "inputs"),
        (b'{"inputs": "***"}', JSON, 422, "inputs must be a picture in base64"),
        (b'{"inputs": "https://example.org/shoe.jpg"}', JSON, 422, "inputs must be a picture in base64"),
        (as_json(["aGk="] * 17), JSON, 422, "inputs"),
        (b"[" * 100_000, JSON, 422, "inputs"),
        (b'{"inputs": ""}' + b" " * 8_000_000, JSON, 413, "8 MB"),
        (b"--x--\r\n", FORM, 422, "no file"),
        (form(("file", b"shoe.jpg")), FORM, 422, "-F file=@shoe.jpg"),
        (form(b""), "multipart/form-data", 422, "not a form"),
        (form(*[b"no picture"] * 17), FORM, 422, "16 files"),
        (form(*[(str(number), b"1") for number in range(17)]), FORM, 422, "form"),
    ],
)
def test_mistakes_get_one_line(served, content, kind, code, message):
    answer = served.ask(content, kind=kind)
    assert answer[0] == code
    assert message in detail(answer)


@pytest.mark.parametrize("top_k", ["0", "-1", "x", "1.5"])
def test_top_k_is_checked_everywhere(served, pictures, top_k):
    for answer in (
        served.ask(pictures[0], f"/predict?top_k={top_k}"),
        served.ask(form(pictures[0], ("top_k", top_k.encode())), kind=FORM),
        served.ask(as_json(text(pictures[0]), top_k=top_k), kind=JSON),
    ):
        assert answer[0] == 422
        assert detail(answer).startswith("top_k: ")


def test_options_are_read_from_the_address_a_form_and_json(served, pictures):
    assert len(labels(served.ask(form(pictures[0], ("top_k", b"2")), kind=FORM))) == 2
    assert len(labels(served.ask(as_json(text(pictures[0])), "/predict?top_k=4", JSON))) == 4
    assert len(labels(served.ask(as_json(text(pictures[0]), top_k=3), "/predict?top_k=4", JSON))) == 3
    assert len(labels(served.ask(as_json(text(pictures[0]), top_k=None), kind=JSON))) == 10
    assert "note" in json.loads(served.ask(form(pictures[0], ("note", b"1")), kind=FORM)[1])


def test_base64_as_programs_write_it(served, photo):
    name = labels(served.ask(photo, "/predict?top_k=1"))
    padded = next(photo + b"0" * count for count in range(3) if (len(photo) + count) % 3 == 1)
    for inputs in (
        base64.encodebytes(photo).decode(),
        base64.urlsafe_b64encode(photo).decode(),
        text(padded).rstrip("="),
        f"data:image/jpeg;base64,{text(photo)}",
        f"data:image/jpeg;charset=utf-8;base64,\r\n{text(photo)}",
    ):
        assert labels(served.ask(as_json(inputs, top_k=1), kind=JSON)) == name


def test_a_part_of_a_form_without_a_file_name_is_a_picture_if_it_is_one(served, pictures, photo):
    for picture in (pictures[0], photo):
        found = labels(served.ask(form(("file", picture)), kind=FORM))
        assert found == labels(served.ask(picture)), "as libcurl and requests send it"


def test_pictures_that_curl_has_changed_are_named(served, pictures, photo):
    kind = "application/x-www-form-urlencoded"  # of -d, which removes line ends, and of --data-binary
    for picture in (pictures[0], photo, photo[:2000]):
        answer = served.ask(picture.replace(b"\r", b"").replace(b"\n", b""), kind=kind)
        assert answer[0] in (415, 422)
        assert "--data-binary" in detail(answer)
    assert labels(served.ask(photo, kind=kind)) == labels(served.ask(photo))


def test_head_is_answered(served):
    for path in ("/", "/health"):
        assert served.ask(None, path, method="HEAD") == (200, b"")
        status, body = served.ask(None, path)
        assert status == 200
        assert body


def test_the_description_has_the_body(served):
    described = json.loads(served.ask(None, "/openapi.json")[1])
    predict = described["paths"]["/predict"]["post"]
    assert {*predict["requestBody"]["content"]} == {"image/*", RAW, "multipart/form-data", JSON}
    assert "inputs" in predict["requestBody"]["content"][JSON]["schema"]["properties"]
    assert {row["name"] for row in predict["parameters"]} == {"top_k", "note", "seen"}
    assert predict["security"] == [{"HTTPBearer": []}]
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


def test_a_charset_that_takes_minutes_is_not_used(served, pictures):
    with served.quick():
        slow = f"{FORM}; charset=punycode"
        assert labels(served.ask(form(pictures[0], ("file", b"-" + b"a" * 1_000_000)), kind=slow))
    assert labels(served.ask(form(pictures[0]), kind=f"{FORM}; charset=undefined")), "no error of ours"
    before = served.memory()
    for number in range(300):
        assert served.ask(form(), kind=f"{FORM}; charset={number}{'x' * 50_000}")[0] == 422
    assert served.memory() - before < 15, "names of charsets are not kept"


def test_json_is_not_parsed_for_seconds(served):
    with served.quick():
        for content in (b"[" + b"[]," * 2_600_000, b'{"inputs": [' + b"1," * 3_900_000, b"[" * 7_900_000):
            assert served.ask(content, kind=JSON)[0] == 422
        assert served.ask(b"[]," * 6_600_000, kind=JSON)[0] == 413


def test_pictures_that_take_hours_are_refused(served):
    picture = encode(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    scan = picture.index(b"\xff\xda")
    with served.quick():
        answer = served.ask(picture[:scan] + picture[scan:-2] * 65 + picture[-2:])
        assert answer[0] == 422
        assert "too long" in detail(answer)


def test_who_sends_too_much_can_read_the_answer(served, guarded):
    large = b"\0" * 60_000_000
    with served.quick():
        assert "20 MB" in detail(served.ask(large)), "urllib closes the connection"
        connection = http.client.HTTPConnection("127.0.0.1", served.port)
        for _ in range(2):  # others keep it
            connection.request("POST", "/predict", large)
            answer = connection.getresponse()
            assert answer.status == 413
            answer.read()
        connection.close()
    assert guarded.ask(large[:5_000_000])[0] == 401
    with served.connect(HALF % (200_000_000, b"")) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413"), "before it is sent"


def test_slow_senders_keep_nobody_out(served, pictures, photo):
    slow = [served.connect(HALF % (100, b"abc")) for _ in range(100)]
    with served.quick():
        assert all(served.ask(picture)[0] == 200 for picture in pictures[:20])
        before, part = served.memory(), b"\0" * 19_000_000
        large = [served.connect(HALF % (len(part) + 1, part)) for _ in range(20)]
        assert served.ask(part)[0] == 503, "the memory for requests is full"
        assert [labels(served.ask(picture)) for picture in (pictures[0], photo)]
        assert served.memory() - before < 400
    for connection in (*slow, *large):
        connection.close()
    wait_for(lambda: served.ask(part)[0] == 415)


def test_senders_who_leave_are_not_logged(served, pictures):
    boundary = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    whole = HALF % (len(pictures[0]), pictures[0])
    for begun in (whole, whole[:-10], whole[:40], boundary + b"Content-Length: 99\r\n\r\n--x\r\n"):
        for _ in range(8):
            served.connect(begun).close()
    assert served.ask(pictures[0])[0] == 200


def wait_for(happened):
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end, "it has not happened in a minute"
        time.sleep(0.1)


def test_pages_of_other_origins_are_refused(served, guarded, pictures):
    strangers = ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"})
    for headers in (*strangers, {"Origin": "https://evil.example", "Sec_Fetch_Site": "same-site"}):
        answer = served.ask(pictures[0], **headers)
        assert answer[0] == 403
        assert "--allowed_origin" in detail(answer)
    assert served.ask(pictures[0], Origin=served.url)[0] == 200
    assert served.ask(pictures[0], Origin="https://a.example", Sec_Fetch_Site="same-origin")[0] == 200, "a proxy"
    known = {"Origin": "https://example.org", "Sec_Fetch_Site": "cross-site"}
    assert guarded.ask(pictures[0], Authorization="Bearer secret", **known)[0] == 200
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
    assert guarded.ask(None, method="OPTIONS", **known, **asked) == (200, b"OK")
    assert guarded.ask(None, method="OPTIONS", **asked, Origin="https://evil.example")[0] == 400


def test_other_names_of_this_machine_are_refused(served, guarded):
    """A page may give its own name the address 127.0.0.1."""
    for host in (f"localhost:{served.port}", f"127.0.0.1:{served.port}", "[::1]:80", "LOCALHOST"):
        assert served.ask(None, "/health", Host=host)[0] == 200
    for host in ("evil.example", "localhost.evil.example", "tunnel.example", ""):
        assert served.ask(None, "/health", Host=host)[0] == 400
    for host in ("tunnel.example", "server.docker:80", "localhost"):
        assert guarded.ask(None, "/health", Host=host)[0] == 200
    assert guarded.ask(None, "/health", Host="evil.example")[0] == 400


def test_other_pages_cannot_embed_it(served):
    with urllib.request.urlopen(served.url, timeout=30) as answer:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"


def test_a_token_is_needed(guarded, pictures):
    assert guarded.ask(pictures[0])[0] == 401
    for wrong in ("Bearer wrong", "Bearer", "Basic secret", "secret", "Bearer secretß"):
        assert guarded.ask(pictures[0], Authorization=wrong)[0] == 401
    for right in ("Bearer secret", "bearer secret", "BEARER  secret "):
        assert guarded.ask(pictures[0], Authorization=right)[0] == 200
    assert guarded.ask(None, "/health")[0] == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_both_kinds_of_address_are_served(guarded):
    connection = http.client.HTTPConnection("::1", guarded.port, timeout=10)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    assert guarded.ask(None, "/health")[0] == 200


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--token", ""), "--token is empty"),
        (("--token", " \n"), "--token is empty"),
        (("--token", "paß"), "--token: "),
        (("--token", "two parts"), "--token: "),
        (("--host", "a..b"), "--host a..b: there is no such host"),
        (("--host", "192.0.2.1", "--port=0"), "give another --host"),
        (("--allowed_host", "http://localhost:8000"), "--allowed_host http"),
        (("--allowed_origin", "example.org"), "--allowed_origin example.org: give one such as https://"),
    ],
)
def test_mistakes_of_options_cost_one_line(workdir, cli, monkeypatch, args, message):
    monkeypatch.chdir(workdir)
    code, _, err = cli("serve", *args)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err


def test_an_empty_variable_is_no_token(workdir, cli, monkeypatch):
    monkeypatch.chdir(workdir)
    monkeypatch.setenv("FMNIST_TOKEN", "")
    code, _, err = cli("serve")
    assert (code, "FMNIST_TOKEN is empty" in err) == (2, True)


def test_the_page_uses_the_server(served, workdir, browser):
    messages = []
    with browser.new_context() as context:
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("request", lambda request: messages.append(request.url))
        page.goto(served.url)
        page.set_input_files("#file", str(ROOT / "docs/boot.png"))
        page.wait_for_function("() => document.getElementById('note').textContent === 'light background: inverted'")
        expected = load(workdir / RUN).classify(ROOT / "docs/boot.png")
        assert page.inner_text("#result").startswith(f"{expected.name}, ")
    assert all(text.startswith((served.url, "data:", "blob:")) for text in messages)


def test_connections_without_a_request_fill_neither_memory_nor_log(workdir, pictures):
    """How many there are is the work of a proxy."""
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    served = Served(workdir, "--host=0.0.0.0", popen=partial(Popen, preexec_fn=limit))
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert served.ask(pictures[0])[0] == 200
    before = served.memory()
    held = [served.connect(health + b"GET /health HTTP/1.1\r\nX: ") for _ in range(200)]
    time.sleep(1.5)
    assert served.memory() - before < 50
    for connection in held:
        connection.close()
    wait_for(lambda: served.ask(pictures[0])[0] == 200)
    served.process.send_signal(signal.SIGTERM)
    _, err = served.process.communicate(timeout=60)
    assert err.startswith("warning: other machines can reach this server without a token; set one with --token\n")
    assert "out of system resource" in err
    assert len(err) < 10_000


def test_what_was_accepted_is_answered_when_the_server_is_stopped(workdir, pictures):
    served = Served(workdir)
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(served.ask, picture) for picture in pictures[:60]]
        wait(asked, return_when=FIRST_COMPLETED)  # others are on their way
        assert served.stop() == 143
        answers = [future.exception() or future.result() for future in asked]
    done = [answer for answer in answers if isinstance(answer, tuple)]
    assert done
    assert all(status == 200 for status, _ in done)
    others = [answer for answer in answers if not isinstance(answer, tuple)]
    assert all("refused" in str(error) or "reset" in str(error) for error in others), others


SLEEPY = """
import os, pathlib, time
def wait(picture):
    pathlib.Path(f"begun_{os.getpid()}").touch()
    time.sleep(600)
    return picture
"""


def listens(port):
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_thread_cannot_keep_the_server_from_ending(workdir, pictures, tmp_path):
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    path = ("--ckpt_path", workdir / RUN / "checkpoints/best.ckpt", "--transform", "sleepy.wait")
    servers = [start("serve", "--port=0", *path, cwd=tmp_path) for _ in range(2)]
    ports = [int(server.stdout.readline().rpartition(":")[2]) for server in servers]
    connections = [socket.create_connection(("127.0.0.1", port)) for port in ports]
    for connection in connections:
        connection.sendall(HALF % (len(pictures[0]), pictures[0]))
    wait_for(lambda: len([*tmp_path.glob("begun_*")]) == 2)
    started = time.monotonic()
    for server in servers:
        server.send_signal(signal.SIGTERM)
    wait_for(lambda: not listens(ports[1]))  # else both signals could arrive as one
    servers[1].send_signal(signal.SIGTERM)
    assert servers[1].wait(5) == 143
    assert servers[0].poll() is None, "the second signal ends it at once"
    assert servers[0].wait(10) == 143
    assert 4 < time.monotonic() - started < 10, "five seconds are promised; the thread sleeps for ten minutes"
    assert [server.communicate()[1] for server in servers] == ["", ""]
    for connection in connections:
        connection.close()


def test_a_port_that_is_taken_costs_one_line(workdir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = spawn("serve", f"--port={taken.getsockname()[1]}", cwd=workdir)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "give another --port" in done.stderr


def test_slow_senders_are_let_go(served):
    assert served.slow.recv(1000).startswith(b"HTTP/1.1 408")
