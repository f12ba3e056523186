"""The server under load, next to a bare endpoint, and under attack.

    python benchmarks/serve.py [--checkpoint FILE] [--requests 10000] [--rounds 3]

Starts ``fmnist serve`` as a process of its own, and prints requests per second and the latency (median and 99th
percentile) at 1, 8 and 32 connections, with a PNG of 28 x 28 and a JPEG of 3 MB. Next to it is a bare endpoint of
FastAPI that reads the same bytes and returns an answer of the same size, and what the server may take: the bare
endpoint and 1.5 times what reading and classifying the picture take without a server. Then its memory before and after
many requests, after hostile pictures, and with 1,000 connections that send nothing; and what SIGTERM under load leaves
unanswered. Client and server share the machine.
"""

import argparse
import http.client
import io
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fmnist import load as load_predictor
from fmnist.inference.predictor import Predictor

CONNECTIONS = (1, 8, 32)


def main() -> None:
    """Starts, asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="how often each row is measured; the best one is printed")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        run_bare_endpoint()
        return
    small, large = picture(28, "PNG"), picture(2600, "JPEG")
    process, port = start(["-m", "fmnist", "serve", "--port=0", "--ckpt_path", args.checkpoint])
    bare, bare_port = start([__file__, "--bare"])
    compare(port, bare_port, small, args)
    bare.kill()
    for connections in CONNECTIONS:
        describe("serve", f"JPEG of {len(large) / 1e6:.1f} MB", connections, [load(port, large, 60, connections)])
    before = memory(process.pid)
    load(port, small, args.requests, 8)
    print(f"\nmemory before and after {args.requests:,} requests: {before:.0f} and {memory(process.pid):.0f} MB")
    codes = Counter(code for content in hostile(small) for code in load(port, content, 1, 1)[1])
    print(f"{codes.total():,} hostile pictures: {dict(codes)}, {memory(process.pid):.0f} MB")
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(1000)]
    alive = load(port, small, 200, 8)[1]
    print(f"with 1,000 silent connections: {dict(alive)}, {memory(process.pid):.0f} MB")
    for connection in silent:
        connection.close()
    stop(process, port, small)


def compare(port: int, bare_port: int, small: bytes, args: argparse.Namespace) -> None:
    """Prints the rows of the smallest picture, those of the bare endpoint, and whether the goal is reached."""
    predictor = load_predictor(args.checkpoint)
    results: dict[tuple[str, int], list[Any]] = {}
    work = []
    for _ in range(args.rounds):  # in turns, as other programs may disturb some of them
        work.append(time_without_server(predictor, small))
        for connections in CONNECTIONS:
            for name, where in (("bare endpoint", bare_port), ("serve", port)):
                results.setdefault((name, connections), []).append(load(where, small, 2000, connections))
    print("| | picture | connections | requests per second | median, ms | 99th, ms |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    took = {key: describe(key[0], "PNG of 28 x 28", key[1], found) for key, found in results.items()}
    print(f"\nread and classify without a server: {min(work):.2f} ms a picture")
    for connections in CONNECTIONS:
        bare, served = took["bare endpoint", connections], took["serve", connections]
        goal = bare + 1.5 * min(work)
        print(f"{connections} connections: {served:.2f} ms a request, {bare:.2f} bare, goal {goal:.2f}")


def describe(name: str, kind: str, connections: int, results: list[Any]) -> float:
    """Prints the row of the best of some results of ``load``; returns its milliseconds of a request."""
    assert all(set(codes) == {200} for _, codes, _ in results), results[0][1]
    seconds, _, took = min(results, key=lambda result: result[2])
    middle, slow = np.percentile(seconds, [50, 99]) * 1000
    print(f"| {name} | {kind} | {connections} | {len(seconds) / took:,.0f} | {middle:.1f} | {slow:.1f} |", flush=True)
    return 1000 * took / len(seconds)


def time_without_server(predictor: Predictor, content: bytes) -> float:
    """Returns the milliseconds of reading and classifying a picture, the mean of 500."""
    started = time.perf_counter()
    for _ in range(500):
        predictor.classify(content)
    return 1000 * (time.perf_counter() - started) / 500


def start(words: list[str]) -> tuple[subprocess.Popen[str], int]:
    """Starts a server; returns its process and its port."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline().rpartition(":")[2])


def run_bare_endpoint() -> None:
    """Runs the least that FastAPI can do with the same bytes, on uvicorn as the server uses it."""
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    app = FastAPI()
    answer = [{"label": f"class {number}", "score": 0.0123456789} for number in range(10)]

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        await request.body()
        return JSONResponse(answer)

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(f"bare: http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, http="h11", log_level="error", access_log=False)).run(sockets=[listener])


def stop(process: subprocess.Popen[str], port: int, small: bytes) -> None:
    """Stops the server under load and prints what became of the requests."""
    asked = threading.Thread(target=lambda: answered.update(load(port, small, 5000, 16)[1]))
    answered: Counter[Any] = Counter()
    asked.start()
    time.sleep(1)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    ended = time.monotonic() - started
    asked.join()
    print(f"SIGTERM under load: exit code {code} after {ended:.1f} s; accepted requests: {dict(answered)}")


def picture(side: int, kind: str) -> bytes:
    """Makes a file of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format=kind, quality=60)
    return file.getvalue()


def hostile(content: bytes) -> list[bytes]:
    """Makes 2,000 damaged pictures: bytes changed, cut, or of another kind."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(2000):
        array = np.frombuffer(content, np.uint8).copy()
        places = random.integers(0, len(array), random.integers(1, 20))
        array[places] = random.integers(0, 256, len(places))
        made.append(array.tobytes()[: random.integers(0, len(array) + 1)] if random.random() < 0.3 else array.tobytes())
    return made


def load(port: int, content: bytes, count: int, connections: int) -> tuple[list[float], Counter[Any], float]:
    """Sends a picture many times; returns seconds of each request, statuses, and the seconds of all."""
    seconds: list[float] = []
    codes: Counter[Any] = Counter()

    def ask(times: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(times):
            started = time.perf_counter()
            try:
                connection.request("POST", "/predict", content)
                answer = connection.getresponse()
                answer.read()
            except OSError as error:
                codes["refused" if isinstance(error, ConnectionRefusedError) else type(error).__name__] += 1
                return
            except http.client.HTTPException as error:
                codes[type(error).__name__] += 1
                return
            codes[answer.status] += 1
            seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=ask, args=(max(1, count // connections),)) for _ in range(connections)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, codes, time.perf_counter() - started


def memory(pid: int) -> float:
    """Returns the resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


if __name__ == "__main__":
    main()
