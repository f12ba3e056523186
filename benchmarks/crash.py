"""What fmnist promises when something goes wrong, tried with real processes.

    python benchmarks/crash.py [--kills 20] [--fits 8] [--root data] [--only PROMISE] [options of fit]

Trains a network on the real images with everything on that has a state: dropout, augmentation,
batch normalization, averaged weights, a schedule that changes every step; options of fit are used
instead of these, if there are any. Then the training is killed, stopped, starved of disk space and
run side by side with itself, and what it leaves is compared with an undisturbed run, file by file.
Prints a table; exits with 1 if a promise is broken.
"""

import argparse
import ctypes
import hashlib
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parent.parent / "configs" / "mlp.yaml"
OPTIONS = (
    *("--model.hidden_dims=[256,256]", "--model.dropout=0.2", "--model.normalization=batch"),
    *("--data.flip=true", "--data.shift=2", "--data.batch_size=128", "--model.optimizer.lr=0.1"),
    *("--trainer.callbacks+=EMAWeightAveraging", "--trainer.max_epochs=4", "--trainer.limit_train_batches=100"),
)
RUN = Path("lightning_logs/version_0")
RESULTS = ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv")
PROMISES: dict[str, Callable[["Place"], str]] = {}


class Place:
    """A folder for trials, and how many of each to make."""

    def __init__(self, folder: Path, root: Path, kills: int, fits: int, options: Sequence[str] = ()) -> None:
        self.folder, self.kills, self.fits, self.options = folder, kills, fits, options
        self.data: tuple[str, ...] = ("--data.source.root", str(root.resolve()))
        self.reference = cache(self._reference)

    @property
    def words(self) -> list[str]:
        """The arguments of the training that all trials share."""
        return ["--config", str(CONFIG), *(self.options or (*self.data, *OPTIONS))]

    def new(self) -> Path:
        """Makes an empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def start(self, cwd: Path, *words: str, **options: object) -> subprocess.Popen[str]:
        """Starts ``fit``; without words the training that all trials share."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}  # type: ignore[dict-item]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [sys.executable, "-m", "fmnist", "fit", *(words or self.words)]
        return subprocess.Popen(command, cwd=cwd, env=env, text=True, **pipes)  # type: ignore[call-overload, no-any-return]

    def pause(self, folder: Path, **options: object) -> subprocess.Popen[str]:
        """Starts the training that all trials share, and pauses it (SIGSTOP) after its first or second epoch.

        It is started again where it was further than this process could see, or was writing a file.
        """
        for _ in range(20):
            process = self.start(folder, **options)
            run = folder / RUN
            wait_for(lambda run=run: (run / "checkpoints/last.ckpt").exists(), process)
            process.send_signal(signal.SIGSTOP)
            while (state := _state(process.pid)) not in "TZ":
                time.sleep(0.005)
            epochs = len((run / "metrics.csv").read_text().splitlines()) - 1
            if state == "T" and epochs < 3 and not list(run.rglob(".*.part")):
                return process
            process.kill()
            process.communicate()
            shutil.rmtree(folder / RUN.parent)
        raise AssertionError("the training is too short to be paused")

    def fit(self, cwd: Path, *words: str, **options: object) -> str:
        """Runs ``fit`` to its end and returns what it printed."""
        process = self.start(cwd, *words, **options)
        out, err = process.communicate(timeout=300)
        expect((process.returncode, err) == (0, ""), f"exit code {process.returncode}: {err}")
        return out

    def _reference(self) -> tuple[dict[str, str], float]:
        """Returns digests of what an undisturbed training leaves, and its seconds from folder to end."""
        place = self.new()
        with self.start(place) as process:
            wait_for(lambda: (place / RUN).exists(), process)
            start = time.monotonic()
            process.communicate()
        expect(process.returncode == 0, "the undisturbed training failed")
        return digests(place / RUN), time.monotonic() - start

    def continued(self, place: Path) -> None:
        """Continues the training in ``place`` and compares all results with the undisturbed ones."""
        self.fit(place, "--ckpt_path", "last")
        expect([path.name for path in (place / "lightning_logs").glob("version_*")] == [RUN.name], "another folder")
        expect(not list(place.rglob(".*.part")), "temporary files are left")
        compare(digests(place / RUN), self.reference()[0])


def promise(text: str) -> Callable[[Callable[[Place], str]], Callable[[Place], str]]:
    """Registers a trial, which returns what it did and fails with an exception."""

    def register(trial: Callable[[Place], str]) -> Callable[[Place], str]:
        PROMISES[text] = trial
        return trial

    return register


@promise("kill -9 at any moment: the continued run equals the undisturbed one, bit for bit")
def killed(place: Place) -> str:
    """Kills at random moments, every third time while a checkpoint is being written."""
    seconds = place.reference()[1]
    draw = random.Random(0)
    plan = [(draw.uniform(0, seconds), draw.randrange(4) if number % 3 == 0 else None) for number in range(place.kills)]

    def trial(moment: tuple[float, int | None]) -> int:
        folder = place.new()
        with place.start(folder) as process:
            wait_for(lambda: (folder / RUN).exists(), process)
            if moment[1] is None:
                time.sleep(moment[0])
            else:
                seen: set[str] = set()
                while len(seen) <= moment[1] and process.poll() is None:
                    seen |= {path.name for path in (folder / RUN / "checkpoints").glob(".*.part")}
            process.kill()
        writing = bool(list((folder / RUN / "checkpoints").glob(".*.part")))
        place.continued(folder)
        return writing

    with ThreadPoolExecutor(2) as pool:
        writing = sum(pool.map(trial, plan))
    return f"{place.kills} kills, {writing} of them inside the writing of a checkpoint"


@promise("SIGTERM, a closed terminal and Ctrl-C stop within a step with exit codes 143, 143 and 130; the run continues")
def stopped(place: Place) -> str:
    """Sends each signal after the first epoch; again where the training was over before the signal was sent."""

    def trial(number: signal.Signals) -> float:
        for _ in range(10):
            folder = place.new()
            process = place.start(folder)
            wait_for((folder / RUN / "checkpoints/last.ckpt").exists, process)
            time.sleep(0.2)
            process.send_signal(number)
            start = time.monotonic()
            out, err = process.communicate(timeout=60)
            took = time.monotonic() - start
            if process.returncode != 0:
                break
        wanted = 130 if number == signal.SIGINT else 143
        expect(process.returncode == wanted, f"{number.name} ended with {process.returncode}: {err}")
        expect("Traceback" not in err, err)
        expect("stopped; continue with" in out, out)
        place.continued(folder)
        return took

    with ThreadPoolExecutor(2) as pool:
        took = max(pool.map(trial, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)))
    return f"all three signals; the process was gone after {took:.1f} s at most"


@promise("disk full, folder read-only or removed during training: one line, exit code 2, checkpoints intact")
def starved(place: Place) -> str:
    """Takes the disk away after the first epoch."""
    small = place.new()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", small], capture_output=True).returncode

    def fill(run: Path) -> None:
        # without a disk of our own, a limit to the size of files stands for a full disk
        with (run / "filler").open("wb") as file:
            for size in (1 << 16, 1 << 10, 1):
                with_room = True
                while with_room:
                    try:
                        with_room = bool(os.write(file.fileno(), bytes(size)))
                    except OSError:
                        with_room = False

    def trial(kind: str) -> None:
        folder = small if kind == "full" and not mounted else place.new()
        process = place.pause(folder, preexec_fn=_obey_permissions)
        checkpoints = folder / RUN / "checkpoints"
        before = digest(checkpoints / "last.ckpt")
        if kind == "full" and not mounted:
            fill(folder / RUN)
        elif kind == "full":
            subprocess.run(["prlimit", "--pid", str(process.pid), "--fsize=20000"], check=True)
        elif kind == "read-only":
            checkpoints.chmod(0o555)
        else:
            shutil.move(folder / "lightning_logs", folder / "elsewhere")
            checkpoints = folder / "elsewhere" / RUN.name / "checkpoints"
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
        checkpoints.chmod(0o755)
        expect(process.returncode == 2, f"{kind}: ended with {process.returncode}: {err}")
        expect(err.count("\n") == 1 and err.startswith("fmnist: error: lightning_logs/version_0/"), f"{kind}: {err}")
        expect(not (folder / RUN).exists() or kind != "removed", "the folder came back")
        expect(digest(checkpoints / "last.ckpt") == before, f"{kind}: the last checkpoint has changed")
        (checkpoints.parent / "filler").unlink(missing_ok=True)
        if kind == "removed":
            shutil.move(folder / "elsewhere", folder / "lightning_logs")
        place.continued(folder)

    try:
        for kind in ("full", "read-only", "removed"):
            trial(kind)
    finally:
        if not mounted:
            subprocess.run(["umount", small], check=True)
    return f"all three; the full disk was {'a limit to the size of files' if mounted else 'a file system of 16 MB'}"


@promise("many trainings started at once in one folder: each has a complete run folder of its own")
def together(place: Place) -> str:
    """Starts them in the same moment."""
    folder = place.new()
    processes = [place.start(folder) for _ in range(place.fits)]
    for process in processes:
        process.communicate()
    codes = [process.returncode for process in processes]
    expect(not any(codes), f"exit codes {codes}")
    runs = sorted((folder / "lightning_logs").iterdir(), key=lambda path: int(path.name.partition("_")[2]))
    expect([run.name for run in runs] == [f"version_{number}" for number in range(place.fits)], f"{runs}")
    tables = {(run / "metrics.csv").read_text() for run in runs}
    expect(len(tables) == 1, "the same settings have given different tables")
    for run in runs:
        expect((run / "config.yaml").is_file() and (run / "curves.png").is_file(), f"{run} is incomplete")
    found = {weights(run / f"checkpoints/{name}.ckpt") for run in runs for name in ("best", "last")}
    expect(len(found) <= 2, "the same settings have given different weights")
    return f"{place.fits} trainings, all with equal results"


@promise("the same command gives the same weights and metrics: again, with a worker, with a bar, without a logger")
def repeated(place: Place) -> str:
    """Trains and tests with settings that must not matter."""

    def results(kind: str) -> tuple[str, str, str]:
        folder = place.new()
        more = {"worker": ["--data.num_workers=1"], "no logger": ["--trainer.logger=false"]}
        words = place.words + more.get(kind, [])
        if kind == "bar":
            ours, its = pty.openpty()
            termios.tcsetwinsize(its, (25, 100))
            with place.start(folder, *words, stdout=its) as process:
                os.close(its)
                shown = _read_all(ours)
            expect(process.returncode == 0 and "epoch 4/4: 100%" in shown, f"no bar: {shown[-200:]}")
        else:
            place.fit(folder, *words)
        command = [sys.executable, "-m", "fmnist", "test"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        metrics = json.loads((folder / RUN / "test/metrics.json").read_text())
        kept = {key: value for key, value in metrics.items() if key not in ("date", "seconds", "digests")}
        table = (folder / RUN / "metrics.csv").read_text()
        return weights(folder / RUN / "checkpoints/last.ckpt"), table, json.dumps(kept)

    kinds = ("first", "again", "worker", "bar", "no logger")
    with ThreadPoolExecutor(2) as pool:
        first, *others = pool.map(results, kinds)
    for kind, other in zip(kinds[1:], others, strict=True):
        expect(other == first, f"{kind}: other results")
    return "five trainings and tests"


def weights(checkpoint: Path) -> str:
    """Returns a digest of all numbers in a checkpoint's state."""
    import torch

    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


def digest(path: Path) -> str:
    """Returns a digest of a file's content; of a checkpoint every value counts, not how it is packed."""
    import torch

    content = path.read_bytes()
    if path.suffix == ".ckpt":
        content = _canonical(torch.load(path, weights_only=True))
    return hashlib.sha256(content).hexdigest()


def _canonical(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"{%b}" % b",".join(repr(key).encode() + b":" + _canonical(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return b"[%b]" % b",".join(map(_canonical, value))
    if hasattr(value, "numpy"):
        return f"{value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes()
    return repr(value).encode()


def digests(run: Path) -> dict[str, str]:
    """Returns digests of the results of a run."""
    return {name: digest(run / name) for name in RESULTS}


def compare(found: dict[str, str], wanted: dict[str, str]) -> None:
    """Fails if results differ."""
    differing = [name for name in wanted if found[name] != wanted[name]]
    expect(not differing, f"{', '.join(differing)} differ from the undisturbed run")


def expect(right: bool, otherwise: str) -> None:
    """Fails unless something is ``right``."""
    if not right:
        raise AssertionError(otherwise)


def wait_for(event: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits for something that a process does."""
    deadline = time.monotonic() + 240
    while not event():
        expect(process.poll() is None, "the training has ended too early")
        expect(time.monotonic() < deadline, "nothing happens")
        time.sleep(0.005)


def _state(pid: int) -> str:
    """Returns the state of a process, a letter as in ``ps``: T for one that is paused; Z for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (OSError, IndexError):
        return "Z"


def _obey_permissions() -> None:
    """Makes even root obey the permissions of files, by giving up the capability that overrides them."""
    libc, override = ctypes.CDLL(None), 1  # CAP_DAC_OVERRIDE
    libc.prctl(24, override, 0, 0, 0)  # PR_CAPBSET_DROP: no program that is executed from here gets it
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    sets[0] &= ~(1 << override)  # of what is in force: this process loses it as well
    libc.capset(header, sets)


def _read_all(terminal: int) -> str:
    shown = b""
    try:
        while some := os.read(terminal, 1 << 16):
            shown += some
    except OSError:  # how a terminal says that the last writer has left
        os.close(terminal)
    return shown.decode()


def main() -> int:
    """Tries every promise and prints a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="moments at which a training is killed (default 20)")
    parser.add_argument("--fits", type=int, default=8, help="trainings that are started at once (default 8)")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the data set (default data)")
    parser.add_argument("--only", default="", metavar="PROMISE", help="only the promises with these words in them")
    args, options = parser.parse_known_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs are started without Ctrl-C
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), args.root, args.kills, args.fits, options)
        print("| guarantee | test | holds |\n| --- | --- | --- |", flush=True)
        for text, trial in PROMISES.items():
            if args.only in text:
                try:
                    done, kept = trial(place), "yes"
                except AssertionError as error:
                    done, kept = " ".join(str(error).split()), "NO"
                broken += kept == "NO"
                print(f"| {text} | {done} | {kept} |", flush=True)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
