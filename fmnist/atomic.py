"""Where files are, and files that are either complete or not there."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmnist.errors import check

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
