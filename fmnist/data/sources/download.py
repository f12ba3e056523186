"""Fashion-MNIST's four files, found on this machine or downloaded, and verified."""

import errno
import gzip
import hashlib
import http.client
import io
import os
import shutil
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch
from tqdm import tqdm

from fmnist.errors import UserError
from fmnist.files import expand, write_whole

SYSTEM_COPY = "/usr/share/datasets/fashion-mnist"
PACKAGE = "dataset-fashion-mnist"
TIMEOUT = 5  # seconds a server may stay silent
MAX_BYTES = 1 << 26  # of a download
APT_TIMEOUT = 15  # seconds for an update of the lists


class VerifiedFashionMNIST:
    """Fashion-MNIST as tensors, in the folders of torchvision's class.

    Missing files come from the first place that has them: ``root`` itself (gzip files put there
    by hand), the folder in ``FMNIST_DATA`` or the system's copy, the mirrors, the operating system's
    package. Contents are checked against the published MD5 whenever they are read, sizes always.

    Args:
        root: Folder that holds ``FashionMNIST/raw``.
        train: The 60,000 training images, or the 10,000 test images.
        download: Whether the network may be used.

    Attributes:
        data: uint8 (N, 28, 28).
        targets: int64 (N,).

    Raises:
        UserError: No place had the files; the message lists what was tried.
    """

    classes: ClassVar = [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ]
    mirrors: ClassVar = [
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ]
    # Size and MD5 of the uncompressed files: gzip files differ from packager to packager.
    files: ClassVar = {
        "train-images-idx3-ubyte": (47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        "train-labels-idx1-ubyte": (60_008, "9018921c3c673c538a1fc5bad174d6f9"),
        "t10k-images-idx3-ubyte": (7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
        "t10k-labels-idx1-ubyte": (10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
    }

    def __init__(self, root: str | Path, train: bool = True, download: bool = True) -> None:
        self.raw_folder = expand(root) / "FashionMNIST" / "raw"
        part = "train" if train else "t10k"
        contents = self._read(part, download)
        self.targets = torch.frombuffer(contents[f"{part}-labels-idx1-ubyte"], dtype=torch.uint8, offset=8).long()
        pixels = torch.frombuffer(contents[f"{part}-images-idx3-ubyte"], dtype=torch.uint8, offset=16)
        self.data = pixels.view(len(self.targets), 28, 28)

    def _read(self, part: str, download: bool) -> dict[str, bytearray]:
        """Returns the files of one part; any of the four that is missing or damaged is fetched."""
        contents, wrong = dict[str, bytearray](), dict[str, str]()
        for name, (size, _) in self.files.items():
            path = self.raw_folder / name
            if not path.is_file():
                wrong[name] = "missing"
            elif path.stat().st_size != size:
                wrong[name] = f"{path.stat().st_size} bytes instead of {size}"
            elif name.startswith(part):
                contents[name] = bytearray(path.read_bytes())  # tensors share its memory, which must be writable
                if not self._is_published(name, contents[name]):
                    wrong[name] = "damaged"
        return contents | self._fetch(wrong, download) if wrong else contents

    def _fetch(self, wrong: dict[str, str], download: bool) -> dict[str, bytearray]:
        """Returns the files that are missing or damaged, after writing them into ``raw_folder``."""
        found, failures = dict[str, bytearray](), list[str]()
        for place, fetch in self._places(download):
            for name in [name for name in wrong if name not in found]:
                try:
                    content = self._verify(name, fetch(name))
                except _FETCH_ERRORS as error:
                    failures.append(f"{place}: {error}")
                    break
                self._write(name, content, local=fetch.func is _read)
                found[name] = bytearray(content)
            else:
                return found
        missing = ", ".join(f"{name} ({reason})" for name, reason in wrong.items() if name not in found)
        raise UserError(
            f"Fashion-MNIST is incomplete in {self.raw_folder}: {missing}. "
            f"Tried{'' if download else ' (download: false)'} {'; '.join(failures)}. Put the four files, gzipped or "
            f"not, into that folder, or set FMNIST_DATA to a folder that holds them."
        )

    def _write(self, name: str, content: bytes, local: bool) -> None:
        """Writes a file; one that is elsewhere on this machine is used even if the file system is read-only."""
        try:
            self.raw_folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.raw_folder / name, content)
        except OSError as error:
            if not local or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise

    def _places(self, download: bool) -> Iterator[tuple[str, partial[bytes]]]:
        """Yields the places to look at, cheapest first, each with a function from name to contents."""
        for folder in (str(self.raw_folder), os.environ.get("FMNIST_DATA", SYSTEM_COPY)):
            yield folder, partial(_read, Path(folder))
        if not download:
            return
        for mirror in self.mirrors:
            yield mirror, partial(_download, mirror)
        with TemporaryDirectory() as folder:
            yield f"apt-get download {PACKAGE}", partial(_read_package, Path(folder))

    def _is_published(self, name: str, content: bytes | bytearray) -> bool:
        return hashlib.md5(content, usedforsecurity=False).hexdigest() == self.files[name][1]

    def _verify(self, name: str, content: bytes) -> bytes:
        size, _ = self.files[name]
        if content[:2] == b"\x1f\x8b":  # gzip; one byte more than the size is read at most, whatever it unpacks to
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(size + 1)
        if not self._is_published(name, content):
            raise ValueError(f"{name} is not the published file (its MD5 differs)")
        return content


_FETCH_ERRORS = (OSError, ValueError, EOFError, zlib.error, http.client.HTTPException, subprocess.SubprocessError)


def _read(folder: Path, name: str) -> bytes:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path.read_bytes()
    raise FileNotFoundError(f"no {name}[.gz] there")


def _download(mirror: str, name: str) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=TIMEOUT) as response:
        # disable=None: no bar where standard error is not a terminal
        with tqdm(total=response.length, unit="B", unit_scale=True, desc=name, disable=None, file=sys.stderr) as bar:
            while chunk := response.read1(1 << 16):
                content += chunk
                bar.update(len(chunk))
                if len(content) > MAX_BYTES:
                    raise OSError(f"sends more than {MAX_BYTES >> 20} MiB")
        if response.length:
            raise OSError(f"ends {response.length} bytes early")
    return bytes(content)


def _read_package(folder: Path, name: str) -> bytes:
    """Reads a file of Debian's package, fetched on first use without root and without installing it."""
    if not (folder / "unpacked").exists():
        if not shutil.which("apt-get"):
            raise FileNotFoundError("there is no apt-get on this machine")
        for state in ("lists/partial", "cache/archives/partial"):
            (folder / state).mkdir(parents=True)
        options = {
            "Dir::State::Lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "",  # as root, apt-get would change to a user who may not write here
            "Acquire::Languages": "none",
            "Acquire::Retries": 0,
            "Acquire::http::Timeout": TIMEOUT,
            "Acquire::https::Timeout": TIMEOUT,
        }
        apt = ["apt-get", *(f"-o{key}={value}" for key, value in options.items())]
        run = partial(subprocess.run, cwd=folder, capture_output=True, text=True, timeout=600)
        with suppress(subprocess.TimeoutExpired):  # the download says what is missing
            run([*apt, "update"], timeout=APT_TIMEOUT)
        got = run([*apt, "download", PACKAGE])
        if got.returncode != 0:
            raise OSError(" ".join(got.stderr.split()) or "failed")
        (package,) = folder.glob("*.deb")
        run(["dpkg-deb", "-x", package, "unpacked"], check=True)
    return _read(folder / "unpacked" / SYSTEM_COPY[1:], name)
