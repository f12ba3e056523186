"""Processes of ``python -m fmnist`` that are forked from one that has imported everything: a start takes 0.1 s, not 5.

They are real: each has a pid, signals, an exit code, streams and a current folder of its own. What an interpreter reads
when it starts (locale, encodings, warnings, threads, the seed of its hashes) is that of the server: tests of these and
of imports start ``Executed``, and so does the first test of several processes, of which Lightning starts all but one.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import GenericAlias
from unittest.mock import patch

from fmnist.runs import folder

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "fmnist"]
MODULES = ("fmnist", "torch.distributed.run", "examples.optuna_study")
PRELOAD = ["tests.forkserver", "fmnist.cli.command", "fmnist.cli.sweep", "torch.utils.tensorboard", "fastapi"]
PATH = sys.path[1:]  # in the server that of any ``python``
LOCK = threading.Lock()
Executed = subprocess.Popen


def module_of(command):
    """Returns the module of a command ``python -m``; None for other commands."""
    return command[2] if [*command][:2] == COMMAND[:2] else None


class Popen:
    """In place of ``subprocess.Popen``, which it makes for anything but ``python -m`` with one of ``MODULES``."""

    __class_getitem__ = classmethod(GenericAlias)

    def __new__(cls, command, *args, **options):
        forked = hasattr(os, "fork") and module_of(command) in MODULES
        return super().__new__(cls) if forked else Executed(command, *args, **options)

    def __init__(self, command, *, cwd=".", env=None, stdout=None, stderr=None, text=False, preexec_fn=None):
        self.args = command
        self.stdout, out = self._open(stdout, 1, text)
        self.stderr, err = (None, out) if stderr == subprocess.STDOUT else self._open(stderr, 2, text)
        place = Path(cwd).absolute(), dict(os.environ if env is None else env)
        with LOCK, patch.dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)):
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(PRELOAD)
            forkserver.ensure_running()
            self.process = context.Process(target=run, args=(*command[2:3], command[3:], *place, out, err, preexec_fn))
            self.process.start()
        self.pid = self.process.pid
        out.close()
        err.close()

    def _open(self, to, own, text):
        """Returns what a stream is read from, if it is a pipe, and what the process writes to."""
        if to == subprocess.PIPE:
            ours, its = os.pipe()
            return os.fdopen(ours, "r" if text else "rb"), Connection(its, readable=False)
        if to == subprocess.DEVNULL:
            return None, Connection(os.open(os.devnull, os.O_WRONLY), readable=False)
        number = own if to is None else to if isinstance(to, int) else to.fileno()
        return None, Connection(os.dup(number), readable=False)

    def poll(self):
        with LOCK:  # of two threads that read the answer, one would find nothing
            return self.process.exitcode

    @property
    def returncode(self):
        return self.poll()

    def wait(self, timeout=None):
        if not wait([self.process.sentinel], timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def communicate(self, input=None, timeout=None):
        pool = ThreadPoolExecutor(2)
        read = [pool.submit(stream.read) if stream else None for stream in (self.stdout, self.stderr)]
        pool.shutdown(wait=False)
        texts = [future and future.result(timeout) for future in read]
        self._close()
        self.wait(timeout)
        return texts

    def _close(self):
        for stream in (self.stdout, self.stderr):
            if stream:
                stream.close()

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._close()
        self.wait()


class Nested(subprocess.Popen):
    """In a forked process: what starts there of ``fmnist`` is forked once more and not executed.

    A sweep starts its runs, and Lightning and ``torchrun`` the processes of a training.
    """

    def __init__(self, args, *rest, env=None, pass_fds=(), **options):
        words = [word for word in args if word != "-u"]
        if (module_of(words) or "").partition(".")[0] == "fmnist":
            sys.stdout.flush()
            options["preexec_fn"] = partial(become, words[2], words[3:], env, pass_fds)
        with patch.dict(folder._handles, clear=True):  # a program that is executed keeps the lock that it is given
            super().__init__(args, *rest, env=env, pass_fds=pass_fds, **options)


def become(module, words, env, pass_fds):
    """Runs a command where a program would be executed, with what that would inherit; never returns."""
    code = 1
    try:
        for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if number > 2 and number not in pass_fds:
                with contextlib.suppress(OSError):
                    os.close(number)  # among them the one that says that the program runs
        run(module, words, Path.cwd(), os.environ if env is None else env)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(module, words, cwd, env, out=None, err=None, prepare=None):
    """Is ``python -m`` with a module."""
    for number, stream in ((1, out), (2, err)):
        if stream:
            os.dup2(stream.fileno(), number)
    for stream in {out, err} - {None}:
        stream.close()
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.chdir(cwd)
    if prepare:
        prepare()
    os.environ.clear()
    os.environ.update(env)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(None, force=True)
    subprocess.Popen = Nested
    sys.path[:], sys.argv[1:] = [str(cwd), *PATH], words
    runpy.run_module(module, run_name="__main__", alter_sys=True)
