"""Run folders, ``lightning_logs/version_N``: claim one, lock it, and find runs and their checkpoints."""

import errno
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from unicodedata import normalize

from fmnist.errors import UserError, check
from fmnist.files import PARTS, expand, move, open_no_follow, read_text, sync_folder, write_whole
from fmnist.text import plain

LOGS = "lightning_logs"
NAME, LOCK = "name", "lock"  # files in a run
TRIAL, RESULT = "trial.json", "result.json"  # files in the folder of a trial of a sweep
LONGEST_NAME = 60
NUMBER = r"version_(0|[1-9][0-9]{0,8})"  # other folders are no runs: nobody trains a billion
# A trained network, to try things with before training: the best.ckpt of mlp-small.yaml, exported
BUNDLED = files("fmnist.runs") / "mlp-small.safetensors"
BUNDLED_NOTE = "no trained model here: using the small one that comes with fmnist (90.58% right)"
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}  # on file systems without locks

_handles: dict[int, tuple[int, int]] = {}  # locks of this process: device and inode of each handle's file


def claim(root: Path, config: str, name: str | None = None) -> Path:
    """Creates the next free run folder; two processes never get the same one.

    It appears with its settings in it, so that a run can be continued whenever it is killed.

    Args:
        root: Folder that holds ``lightning_logs``.
        config: Content of the run's ``config.yaml``.
        name: A name for the run.

    Returns:
        ``root/lightning_logs/version_N``, N one above the highest there is.

    Raises:
        UserError: Another run has this name.
    """
    if name:
        check_name(name, root)
    logs = root / LOGS
    number = max(_versions(logs), default=-1) + 1
    check(number < 10**9, f"{logs}: version_{number - 1} has the highest possible number: rename it")
    draft = logs / f".{uuid.uuid4().hex}"
    try:
        (draft / "checkpoints").mkdir(parents=True)
        write_whole(draft / "config.yaml", config)
        if name:
            (draft / NAME).write_text(name, encoding="utf-8")
        while True:
            try:
                folder = move(draft.rename, logs / f"version_{number}")
                break
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):  # else another process was faster
                    raise
                number += 1
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # there is none if the folder was claimed
    for changed in (logs, root):
        sync_folder(changed)
    return folder


def read_name(run: Path) -> str | None:
    """Returns the name that a run was given; None if it has none."""
    try:
        return normalize("NFC", read_text(run / NAME).strip())[:LONGEST_NAME] or None
    except (OSError, ValueError):
        return None


def check_name(name: str, root: Path) -> None:
    """Raises a ``UserError`` for a name that cannot be one, or that another run has."""
    printable = name.isprintable() and name == name.strip() and 0 < len(name) <= LONGEST_NAME
    check(printable and not {*name} & {"/", "\\"}, f"--name {name}: give up to {LONGEST_NAME} letters, without / or \\")
    free = name not in ("best", "last") and not re.fullmatch(r"version_\d+", name)
    check(free, f"--name {name}: this has another meaning; give another")
    other = _find_named(name, root)
    check(other is None, f"--name {name}: this is the name of {other}; give another")


def _find_named(name: str, root: Path) -> Path | None:
    name = normalize("NFC", name)
    runs = (root / LOGS / f"version_{version}" for version in _versions(root / LOGS))
    return next((run for run in runs if read_name(run) == name), None)


def locate(spec: str, root: Path = Path()) -> Path:
    """Returns the file or folder that is meant: a path, a path from ``lightning_logs`` on, or the name of a run.

    Args:
        spec: An option's value; ``~`` is the home folder.
        root: Folder that holds ``lightning_logs``.
    """
    path = expand(spec)
    found = next((where for where in (path, root / LOGS / path) if where.exists()), None)
    return found or _find_named(spec, root) or path


def find_checkpoint(spec: str | None, root: Path, to_continue: bool = False) -> Path:
    """Finds the checkpoint that one value of ``--ckpt_path`` means.

    Args:
        spec: A checkpoint or a run, as ``locate`` takes it; or ``best`` or ``last`` of the newest run that has one;
            None means ``best``.
        root: Folder that holds ``lightning_logs``.
        to_continue: Whether a run is to be continued: its ``last.ckpt``, which may be missing.

    Raises:
        UserError: There is no such checkpoint.
    """
    if spec in (None, "best", "last"):
        newest = _find_newest(f"{spec or 'best'}.ckpt", root, to_continue)
        if newest is None:
            first = "run 'fmnist fit --config configs/mlp.yaml' first"
            raise UserError(f"no trained model in {root / LOGS}: {first}, or name a checkpoint with --ckpt_path FILE")
        return newest
    path = locate(str(spec), root)
    path = newest_run(path) or path  # a folder that holds lightning_logs, such as a trial of a sweep
    if (path / "config.yaml").is_file():  # a run
        path = path / "checkpoints" / ("last.ckpt" if to_continue else "best.ckpt")
    if _can_use(path, to_continue):
        return path
    try:
        known = f"the newest run's is {find_checkpoint(None, root)}"
    except UserError as error:
        known = str(error)
    raise UserError(f"--ckpt_path {spec}: there is no such file; {known}")


def _can_use(path: Path, to_continue: bool) -> bool:
    """Returns whether a checkpoint exists, or is the ``last.ckpt`` of a run to continue, which may be missing."""
    return path.is_file() or (to_continue and path.name == "last.ckpt" and run_folder(path) is not None)


def _find_newest(name: str, root: Path, to_continue: bool = False) -> Path | None:
    runs = (root / LOGS / f"version_{version}" for version in sorted(_versions(root / LOGS), reverse=True))
    paths = (run / "checkpoints" / name for run in runs)
    return next((path for path in paths if _can_use(path, to_continue)), None)


def find_checkpoints(
    specs: Sequence[str], root: Path, to_continue: bool = False, or_bundled: bool = False
) -> list[Path]:
    """Finds the checkpoints that the values of ``--ckpt_path`` mean; no value means ``best``.

    Args:
        specs: Each as ``find_checkpoint`` takes it, or a folder of runs, such as a sweep's: those that have finished.
        root: Folder that holds ``lightning_logs``.
        to_continue: As there.
        or_bundled: Whether the network of the package will do where nothing is named and the current folder has no
            trained model; a note is printed.

    Raises:
        UserError: There is no such checkpoint.
    """
    here = root == Path()  # a folder that was named, but holds no run, is a mistake
    if or_bundled and not specs and here and isinstance(BUNDLED, Path) and not _find_newest("best.ckpt", root):
        print(f"note: {BUNDLED_NOTE}", file=sys.stderr)
        return [BUNDLED]
    found = []
    for spec in specs or ["best"]:
        members = [] if spec in ("best", "last") else _list_finished(spec, locate(spec, root))
        found += [find_checkpoint(name, root, to_continue) for name in [*map(str, members)] or [spec]]
    return found


def _list_finished(spec: str, folder: Path) -> list[Path]:
    """Returns the finished runs in a folder of several, and prints which are left out; nothing for another folder."""
    if not folder.is_dir() or newest_run(folder) or (folder / "config.yaml").is_file():
        return []
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    runs = [newest_run(path) or path for path in inside]
    runs = [run for run in runs if (run / "config.yaml").is_file() or (run / TRIAL).is_file()]
    finished = [run for run in runs if ended_mark(run).exists()]
    if len(runs) < 2 or len(finished) == len(runs):
        return runs
    others = ", ".join(show_path(run) for run in runs if run not in finished)
    check(bool(finished), f"--ckpt_path {spec}: no run in this folder has finished: {others}")
    print(plain(f"note: {spec} without {others}: failed or not finished"), file=sys.stderr)
    return finished


def claim_ensemble(root: Path) -> Path:
    """Creates the next free folder ``root/lightning_logs/ensemble_N`` for the results of an ensemble."""
    number = 0
    while True:
        folder = root / LOGS / f"ensemble_{number}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
        number += 1


def run_folder(checkpoint: Path) -> Path | None:
    """Returns the run folder of a checkpoint; None if it is elsewhere."""
    inside = checkpoint.parent.name == "checkpoints" and (checkpoint.parent.parent / "config.yaml").is_file()
    return checkpoint.parent.parent if inside else None


def results_folder(checkpoint: Path) -> Path:
    """Returns the folder for a test's results: in the checkpoint's run, or beside a checkpoint without one."""
    return (run_folder(checkpoint) or checkpoint.parent) / "test"


def lock(folder: Path, wait: float = 0.0) -> int | None:
    """Locks a folder for this process, until it ends or closes the returned handle.

    The lock is on a file in the folder, which stays there; on a network file system a lock on a folder would not reach
    other machines. Forked processes, such as workers of a data loader, do not keep it; one that inherits the handle
    (``pass_fds``) does. Where locks are missing, or do nothing, a warning is printed.

    Args:
        folder: A run, a trial or a sweep.
        wait: Seconds to wait for another process, which may only be checking.

    Returns:
        A handle; None if another process holds the lock.

    Raises:
        OSError: The folder is missing or read-only.
    """
    from filelock import lock_descriptor  # takes a tenth of a second

    handle, end = os.open(folder / LOCK, _no_follow(os.O_RDWR | os.O_CREAT), 0o666), time.monotonic() + wait
    try:
        while not lock_descriptor(handle, blocking=False):
            if time.monotonic() > end:
                os.close(handle)
                return None
            time.sleep(0.02)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(handle)
            raise
    if not is_locked(folder):
        _warn_once()
    _handles[handle] = _identify(handle)
    return handle


@cache
def _warn_once() -> None:
    print("warning: this file system has no locks: do not use one run or sweep from two processes", file=sys.stderr)


def is_locked(folder: Path) -> bool:
    """Returns whether a process is known to hold the lock of a folder; changes nothing."""
    from filelock import lock_descriptor

    path = folder / LOCK
    try:
        handle = os.open(path, _no_follow(os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY))
    except OSError:
        return False
    try:
        return not lock_descriptor(handle, blocking=False)
    except OSError:
        return False
    finally:
        os.close(handle)


def _no_follow(flags: int) -> int:
    return flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _identify(handle: int) -> tuple[int, int]:
    found = os.fstat(handle)
    return found.st_dev, found.st_ino


def _leave_locks() -> None:
    """Closes the locks in a forked process, which may outlive its killed parent for seconds."""
    for handle, identity in _handles.items():
        with suppress(OSError):  # it has been closed
            if _identify(handle) == identity:
                os.close(handle)
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)


def check_links(folder: Path) -> None:
    """Raises a ``UserError`` if a folder of results has a link that leads out of it."""
    top = os.path.realpath(folder)
    check(not folder.is_symlink(), f"{folder} is a link: name what it leads to, {top}")
    for inner in (folder, folder / "checkpoints", folder / "test"):
        for path in (inner, *(inner.iterdir() if inner.is_dir() else ())):
            inside = Path(os.path.realpath(path)).is_relative_to(top)
            check(inside, f"{path} is a link that leads out of {folder}: replace it by what it leads to")


def find_below(folder: Path, pattern: str) -> Iterator[Path]:
    """Yields what matches a pattern of names, such as ``version_*``, at any depth, without following links.

    It stops at paths of 900 characters: systems refuse longer ones, and ``rglob`` fails on a thousand nested folders.
    """
    waiting = [folder]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:  # a folder may be unreadable
            for entry in entries:
                if fnmatchcase(entry.name, pattern):
                    yield Path(entry.path)
                if entry.is_dir(follow_symlinks=False) and len(entry.path) < 900:
                    waiting.append(Path(entry.path))


def remove_parts(folder: Path) -> None:
    """Removes the temporary files of a process that was killed; the folder must be locked."""
    for part in find_below(folder, PARTS):
        part.unlink()


def newest_run(root: Path) -> Path | None:
    """Returns the newest run below a folder that holds ``lightning_logs``; None if there is none."""
    versions = _versions(root / LOGS)
    return root / LOGS / f"version_{max(versions)}" if versions else None


def ended_mark(run: Path) -> Path:
    """Returns the file that exists if a run has finished and was not stopped."""
    return run / "ended"


def mark_ended(run: Path) -> None:
    """Creates the file that ``ended_mark`` names."""
    os.close(open_no_follow(str(ended_mark(run)), os.O_WRONLY | os.O_CREAT))


def show_path(run: Path) -> str:
    """Returns a run as ``--ckpt_path`` accepts it: from ``lightning_logs`` on, a trial of a sweep by its folder."""
    holder = run.parent.parent
    path = holder if (holder / TRIAL).exists() and newest_run(holder) == run else run
    here, path = Path.cwd(), path.absolute()
    near = next((base for base in (here / LOGS, here) if path.is_relative_to(base)), None)
    return str(path.relative_to(near) if near else path)


def _versions(logs: Path) -> list[int]:
    try:
        names = [path.name for path in logs.glob("version_*")]
    except ValueError:  # a path with a zero byte, of which Python 3.13 complains
        return []
    return [int(match[1]) for name in names if (match := re.fullmatch(NUMBER, name))]
