"""Files that are either complete or not there."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, and moves it to ``path`` when the block succeeds.

    A crash, a full disk or a second process never leaves a half-written ``path``: it keeps its
    previous content until the new one has reached the disk.

    Args:
        path: Where the file is to appear. Its folder is created.

    Yields:
        A path in the same folder, of this call alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
