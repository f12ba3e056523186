"""The server under load, and under attack.

    python benchmarks/serve.py [--checkpoint FILE] [--requests 10000]

Starts ``fmnist serve`` as a process of its own, and prints requests a second and the latency (median and 99th
percentile) at 1, 8 and 32 connections, with a PNG of 28 x 28 and a JPEG of 3 MB; its memory before and after many
requests, after hostile pictures, and after 1,000 connections that send nothing; and what SIGTERM under load leaves
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


def main() -> None:
    """Starts, asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args()
    command = [sys.executable, "-m", "fmnist", "serve", "--port=0", "--ckpt_path", args.checkpoint]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2])
    small, large = picture(28, "PNG"), picture(2600, "JPEG")
    print("| picture | connections | requests a second | median, ms | 99th, ms |\n| --- | ---: | ---: | ---: | ---: |")
    for name, content, count in (("PNG of 28 x 28", small, 2000), (f"JPEG of {len(large) / 1e6:.1f} MB", large, 60)):
        for connections in (1, 8, 32):
            seconds, codes, took = load(port, content, count, connections)
            rate, (middle, slow) = count / took, np.percentile(seconds, [50, 99]) * 1000
            assert set(codes) == {200}, codes
            print(f"| {name} | {connections} | {rate:,.0f} | {middle:.1f} | {slow:.1f} |", flush=True)
    before = memory(process.pid)
    load(port, small, args.requests, 8)
    print(f"\nmemory before and after {args.requests:,} requests: {before:.0f} and {memory(process.pid):.0f} MB")
    codes = Counter(code for content in hostile(small) for code in load(port, content, 1, 1)[1])
    print(f"{codes.total():,} hostile pictures: {dict(codes)}, {memory(process.pid):.0f} MB")
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(1000)]
    alive = load(port, small, 200, 8)[1]
    print(f"beside 1,000 silent connections: {dict(alive)}, {memory(process.pid):.0f} MB")
    for connection in silent:
        connection.close()
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
