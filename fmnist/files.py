"""Paths, and files that are written whole and read within limits."""

import hashlib
import json
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BufferedReader
from pathlib import Path
from typing import Any

from fmnist.errors import DamagedError, check

MAX_BYTES = 1_000_000  # of a configuration or a history: ours have a hundredth of that

PARTS = ".*.part"  # pattern of the temporary files, which a killed process leaves behind


def expand(path: str | Path) -> Path:
    """Returns a path with ``~`` as the home folder; that of a user who does not exist stays as it is."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


def find_config(name: str, folder: str = "configs") -> Traversable:
    """Finds a configuration: a file, or one of the package, which are named without a path.

    Args:
        name: What the user has written; a file of this name comes before one of the package.
        folder: Folder of the package, ``configs`` or ``configs/sweeps``.
    """
    here, bundled = expand(name), list_configs(folder).get(name)
    return here if bundled is None or here.exists() else bundled


def list_configs(folder: str = "configs") -> dict[str, Traversable]:
    """Returns the configurations that come with the package, by name, as ``find_config`` finds them."""
    package = files("fmnist")
    roots = (package, Path(str(package)).parent)  # in a checkout they are one folder up
    folders = (root.joinpath(*folder.split("/")) for root in roots)
    found = (path for known in folders if known.is_dir() for path in known.iterdir())
    return {path.name: path for path in sorted(found, key=str) if path.name.endswith(".yaml")}


def check_target(path: Path, overwrite: bool) -> None:
    """Raises a ``UserError``, before any work is done, if ``--output`` names a folder or a file that must stay."""
    check(not path.is_dir(), f"--output {path}: this is a folder")
    check(overwrite or not path.exists(), f"--output {path}: the file exists; add --overwrite to replace it")


def check_unused(option: str, folder: Path) -> None:
    """Raises a ``UserError`` if an option names a folder that holds something, or a file."""
    unused = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    check(unused, f"{option} {folder}: this exists; give a new or an empty folder")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, and moves it to ``path`` when the block succeeds.

    A crash, a full disk or a second process never leaves a half-written ``path``: it keeps its
    previous content until the new one has reached the disk.

    Args:
        path: Where the file is to appear, in an existing folder.

    Yields:
        A path in the same folder, that only this call uses.

    Raises:
        OSError: The file cannot be written; the error names ``path``.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        move(part.replace, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(part)):  # writing to an open file names none
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def move(how: Callable[[Path], Path], target: Path) -> Path:
    """Moves a file or a folder, within a second: on Windows it has to wait for a program that has it open.

    Args:
        how: ``Path.rename`` or ``Path.replace`` of what is moved.
        target: Its new path.
    """
    for seconds in (0.1, 0.2, 0.3, 0.4):
        try:
            return how(target)
        except PermissionError:
            time.sleep(seconds)
    return how(target)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder survive a power cut, where the system can: a file's own fsync does not."""
    if os.name == "nt":  # which opens no folder
        return
    with suppress(OSError):  # some file systems refuse, and the content has reached the disk already
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_no_follow(path: str, flags: int) -> int:
    """Opens a file for writing as the ``opener`` of ``open``, but not through a symbolic link, where that is known."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file, text in UTF-8, that is there whole or as it was before; see ``atomic_path``."""
    with atomic_path(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def open_regular(path: Path, most: int | None = None) -> BufferedReader:
    """Opens an untrusted file for reading.

    Args:
        path: The file.
        most: Bytes that it may have; any number if not given.

    Raises:
        OSError: There is no such file, or it cannot be read.
        DamagedError: It is larger, or something else: reading a pipe or a device might never end.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    about = os.fstat(handle)
    regular = stat.S_ISREG(about.st_mode)
    if regular and (most is None or about.st_size <= most):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise DamagedError(
        f"{path.name} is larger than {(most or 0) / 1e6:,.0f} MB" if regular else f"{path.name} is not a file"
    )


def digest_file(path: Path) -> str:
    """Returns the SHA-256 of a regular file, as 64 hexadecimal digits; for errors see ``open_regular``."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, most: int) -> bytes:
    """Reads an untrusted file of at most ``most`` bytes; for errors see ``open_regular``."""
    with open_regular(path, most) as file:
        return file.read(most)


def read_text(path: Path) -> str:
    """Reads an untrusted text file of at most 1 MB, UTF-8 with or without its mark; for errors see ``open_regular``."""
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path.name} is not text ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a small JSON file that holds one object; for errors see ``read_text``."""
    text = read_text(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path.name} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path.name} holds no object")
    return found


def read_end(path: Path) -> str:
    """Returns the end of a log, at most 1 MB; for errors see ``open_regular``."""
    with open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_BYTES))
        return file.read(MAX_BYTES).decode("utf-8", errors="replace")
