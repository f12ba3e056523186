"""Run folders, ``lightning_logs/version_N``: claim a new one, find the newest and its checkpoints."""

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
from pathlib import Path

from fmnist.errors import UserError, check
from fmnist.files import expand, move, open_own, read_text, sync_folder, write_whole

LOGS = "lightning_logs"
NAME = "name"
LOCK = "lock"
LONGEST_NAME = 60
NUMBER = r"version_(0|[1-9][0-9]{0,8})"  # folders with other names are no runs: nobody trains a billion
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}  # what systems without say

_handles: dict[int, tuple[int, int]] = {}  # of the locks that this process holds: device and number of each file


def claim(root: Path, config: str, name: str | None = None) -> Path:
    """Makes the next free run folder; two processes never get the same one.

    The folder appears with its settings in it, so that a run which is killed at any later moment
    can be continued.

    Args:
        root: Folder that holds ``lightning_logs``.
        config: Content of the run's ``config.yaml``.
        name: What the run is called besides.

    Returns:
        ``root/lightning_logs/version_N``, N one above the highest there is.

    Raises:
        UserError: Another run has this name.
    """
    if name:
        check_name(name, root)
    logs = root / LOGS
    number = max(_versions(logs), default=-1) + 1
    check(number < 10**9, f"{logs / f'version_{number - 1}'} has the last number there is: rename it")
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
    """Returns what a run is called besides ``version_N``; None if it has no name."""
    try:
        return read_text(run / NAME).strip()[:LONGEST_NAME] or None
    except (OSError, ValueError):
        return None


def check_name(name: str, root: Path) -> None:
    """Raises a ``UserError`` for a name that cannot be one, or that a run has already."""
    text = name.isprintable() and name == name.strip() and 0 < len(name) <= LONGEST_NAME
    check(text and not {*name} & {"/", "\\"}, f"--name {name}: give up to {LONGEST_NAME} letters, without / or \\")
    free = name not in ("best", "last") and not re.fullmatch(r"version_\d+", name)
    check(free, f"--name {name}: that means something else already; give another")
    taken = _named(name, root)
    check(taken is None, f"--name {name}: this is the name of {taken}; give another")


def _named(name: str, root: Path) -> Path | None:
    runs = (root / LOGS / f"version_{version}" for version in _versions(root / LOGS))
    return next((run for run in runs if read_name(run) == name), None)


def find_checkpoint(spec: str | None, root: Path, to_continue: bool = False) -> Path:
    """Finds the checkpoint that ``--ckpt_path`` means.

    Args:
        spec: A path, of a checkpoint or a run, also from ``lightning_logs`` on; the name of a run; or ``best`` or
            ``last`` of the newest run that has one; None means ``best``.
        root: Folder that holds ``lightning_logs``.
        to_continue: With ``last``, take the newest run also if it was stopped before it had a checkpoint.

    Returns:
        The checkpoint's file; only with ``to_continue`` it may be missing.

    Raises:
        UserError: There is no such checkpoint.
    """
    if spec not in (None, "best", "last"):
        path = _place(spec, root)
        path = newest_run(path) or path  # a folder that holds lightning_logs, such as a trial of a sweep
        if (path / "config.yaml").is_file():  # a run
            path = path / "checkpoints" / ("last.ckpt" if to_continue else "best.ckpt")
        if not path.is_file() and not (to_continue and path.name == "last.ckpt" and run_folder(path)):
            raise UserError(f"--ckpt_path {spec}: there is no such file; {_available(root)}")
        return path
    name = f"{spec or 'best'}.ckpt"
    for version in sorted(_versions(root / LOGS), reverse=True):
        path = root / LOGS / f"version_{version}" / "checkpoints" / name
        if path.is_file() or (to_continue and spec == "last" and run_folder(path)):
            return path
    raise UserError(
        f"no trained model in {root / LOGS}: run 'python -m fmnist fit --config configs/mlp.yaml' first, "
        f"or name a checkpoint with --ckpt_path FILE"
    )


def find_checkpoints(specs: Sequence[str], root: Path, to_continue: bool = False) -> list[Path]:
    """Finds the checkpoints that several words after ``--ckpt_path`` mean.

    Args:
        specs: Each as ``find_checkpoint`` takes it, or a folder of runs, such as that of a sweep, which means them all;
            none means ``best``.
        root: Folder that holds ``lightning_logs``.
        to_continue: As there.

    Returns:
        The files of the checkpoints.

    Raises:
        UserError: There is no such checkpoint, or a run in a folder has not ended.
    """
    found = []
    for spec in specs:
        runs = [] if spec in ("best", "last") else _runs(_place(spec, root))
        for run in runs:
            done = len(runs) == 1 or ended_mark(run).exists()
            check(done, f"--ckpt_path {spec}: {spell(run)} has not ended; name the runs that you mean")
        found += [find_checkpoint(name, root, to_continue) for name in [*map(str, runs)] or [spec]]
    return found or [find_checkpoint(None, root, to_continue)]


def _place(spec: str, root: Path) -> Path:
    path = expand(spec)
    if path.exists():
        return path
    return root / LOGS / path if (root / LOGS / path).is_dir() else _named(spec, root) or path  # as compare prints it


def _runs(folder: Path) -> list[Path]:
    """Returns the runs in a folder of runs; none for a run, or for what holds ``lightning_logs``."""
    if not folder.is_dir() or newest_run(folder) or (folder / "config.yaml").is_file():
        return []
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    runs = (newest_run(path) or path for path in inside)
    return [run for run in runs if (run / "config.yaml").is_file()]


def claim_ensemble(root: Path) -> Path:
    """Makes the next free folder ``root/lightning_logs/ensemble_N`` for the results of an ensemble."""
    number = 0
    while True:
        folder = root / LOGS / f"ensemble_{number}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
        number += 1


def run_folder(checkpoint: Path) -> Path | None:
    """Returns the run folder that a checkpoint lies in; None if it lies elsewhere."""
    inside = checkpoint.parent.name == "checkpoints" and (checkpoint.parent.parent / "config.yaml").is_file()
    return checkpoint.parent.parent if inside else None


def results_folder(checkpoint: Path) -> Path:
    """Returns the folder for a test's results: in the checkpoint's run, or beside a checkpoint without one."""
    return (run_folder(checkpoint) or checkpoint.parent) / "test"


def lock(folder: Path, wait: float = 0.0) -> int | None:
    """Takes a folder for this process, until it ends or closes what is returned.

    The lock is that of a file in the folder, which stays there: over a network those of folders do not reach other
    machines. Processes that this one forks, such as workers of a data loader, do not keep it; one that is given the
    handle (``pass_fds``) does. Where locks do not exist there is a warning.

    Args:
        folder: A run, a trial or a sweep.
        wait: Seconds to go on trying: somebody may only be looking.

    Returns:
        A handle; None if another process has the folder.

    Raises:
        OSError: The folder may only be read, or is not there.
    """
    from filelock import lock_descriptor  # takes a tenth of a second

    handle, end = os.open(folder / LOCK, _own(os.O_RDWR | os.O_CREAT), 0o666), time.monotonic() + wait
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
        _warn_once()
    _handles[handle] = _identify(handle)
    return handle


@cache
def _warn_once() -> None:
    print("warning: this file system has no locks: do not use one run or sweep from two processes", file=sys.stderr)


def is_locked(folder: Path) -> bool:
    """Returns whether a process holds the lock of a folder, as far as that can be known; changes nothing."""
    from filelock import lock_descriptor

    path = folder / LOCK
    try:
        handle = os.open(path, _own(os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY))
    except OSError:
        return False
    try:
        return not lock_descriptor(handle, blocking=False)
    except OSError:
        return False
    finally:
        os.close(handle)


def _own(flags: int) -> int:
    return flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _identify(handle: int) -> tuple[int, int]:
    found = os.fstat(handle)
    return found.st_dev, found.st_ino


def _leave_locks() -> None:
    """Closes the locks in a process that was forked: it may live on for seconds when its parent has been killed."""
    for handle, identity in _handles.items():
        with suppress(OSError):  # it has been closed
            if _identify(handle) == identity:
                os.close(handle)
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)


def check_own(folder: Path) -> None:
    """Refuses to write into a run, or into another folder of results, that has links which lead out of it.

    Raises:
        UserError: The folder is a link, or one of its files is such a link, or one in its ``checkpoints`` or ``test``.
    """
    top = os.path.realpath(folder)
    check(not folder.is_symlink(), f"{folder} is a link: name what it leads to, {top}")
    for place in (folder, folder / "checkpoints", folder / "test"):
        for path in (place, *(place.iterdir() if place.is_dir() else ())):
            inside = Path(os.path.realpath(path)).is_relative_to(top)
            check(inside, f"{path} is a link that leads out of {folder}: put what it leads to in its place")


def find_below(folder: Path, pattern: str) -> Iterator[Path]:
    """Yields what fits a pattern in a folder and all folders in it, without following links.

    Paths of 900 characters are the end: systems refuse longer ones, and ``rglob`` fails on a thousand nested folders.

    Args:
        folder: Where to look.
        pattern: Of a name, such as ``version_*``.
    """
    waiting = [folder]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:  # one that may not be read
            for entry in entries:
                if fnmatchcase(entry.name, pattern):
                    yield Path(entry.path)
                if entry.is_dir(follow_symlinks=False) and len(entry.path) < 900:
                    waiting.append(Path(entry.path))


def newest_run(root: Path) -> Path | None:
    """Returns the newest run below a folder that holds ``lightning_logs``; None if there is none."""
    versions = _versions(root / LOGS)
    return root / LOGS / f"version_{max(versions)}" if versions else None


def ended_mark(run: Path) -> Path:
    """Returns the file that tells that a training has ended by itself, not been stopped."""
    return run / "ended"


def mark_ended(run: Path) -> None:
    """Notes that a training has ended by itself."""
    os.close(open_own(str(ended_mark(run)), os.O_WRONLY | os.O_CREAT))


def spell(run: Path) -> str:
    """Writes a run as ``--ckpt_path`` takes it: from ``lightning_logs`` on, a trial of a sweep by its folder."""
    holder = run.parent.parent
    path = holder if (holder / "trial.json").exists() and newest_run(holder) == run else run
    here, path = Path.cwd(), path.absolute()
    near = next((base for base in (here / LOGS, here) if path.is_relative_to(base)), None)
    return str(path.relative_to(near) if near else path)


def _versions(logs: Path) -> list[int]:
    try:
        names = [path.name for path in logs.glob("version_*")]
    except ValueError:  # a path with a zero byte, of which Python 3.13 complains
        return []
    return [int(match[1]) for name in names if (match := re.fullmatch(NUMBER, name))]


def _available(root: Path) -> str:
    try:
        return f"the newest run's is {find_checkpoint(None, root)}"
    except UserError as error:
        return str(error)
