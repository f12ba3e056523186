"""Where files are, and files that are either complete or not there."""

import hashlib
import io
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmnist.errors import check

MAX_BYTES = 1_000_000  # of a configuration or a history: ours have a hundredth of that

PARTS = ".*.part"  # pattern of the temporary files, which a killed process leaves behind


def expand(path: str | Path) -> Path:
    """Returns a path with ``~`` as the home folder; that of a user who does not exist stays as it is."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


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
        A path in the same folder, of this call alone.

    Raises:
        OSError: The file cannot be written; the error names ``path``.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.filename in (None, str(part)):  # writing to an open file names none
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file, text in UTF-8, that is there whole or as it was before; see ``atomic_path``."""
    with atomic_path(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def digest_file(path: Path) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: Path, most: int) -> io.BufferedReader:
    """Opens a file to read it; a pipe or a device, which might never end, is not waited for.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is no file but a pipe or a device, or it is larger.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    about = os.fstat(file.fileno())
    if stat.S_ISREG(about.st_mode) and about.st_size <= most:
        return file
    file.close()
    raise ValueError(f"it is larger than {most / 1e6:,.0f} MB" if stat.S_ISREG(about.st_mode) else "it is not a file")


def read_text(path: Path) -> str:
    """Reads a small text file.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is not text, or is larger than 1 MB.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is not a file")  # reading a pipe might never end
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES // 1_000_000} MB")
    return content.decode("utf-8")
