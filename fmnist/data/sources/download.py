"""torchvision's Fashion-MNIST, found on this machine or downloaded, and verified."""

import gzip
import hashlib
import http.client
import io
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
import torchvision
from torch import Tensor
from tqdm import tqdm

from fmnist.errors import UserError
from fmnist.files import expand, write_whole

SYSTEM_COPY = "/usr/share/datasets/fashion-mnist"
PACKAGE = "dataset-fashion-mnist"
PATIENCE = 5  # seconds a server may stay silent; two dead mirrors and a dead apt stay under 30 s
MIN_RATE = 20_000  # bytes per second; a slower mirror is given up
APT_UPDATE_LIMIT = 15  # seconds

Fetch = Callable[[str], bytes]


class VerifiedFashionMNIST(torchvision.datasets.FashionMNIST):  # type: ignore[misc]
    """Drop-in for torchvision's class that looks further and trusts less.

    Missing files come from the first place that has them: ``root`` itself (gzip files put there
    by hand), the folder in ``FMNIST_DATA`` or the system's copy, the mirrors, the operating system's
    package. Contents are checked against the published MD5 whenever they are read, sizes always.

    Args:
        root: Folder that holds ``FashionMNIST/raw``, as in torchvision.
        train: The 60,000 training images, or the 10,000 test images.
        download: Whether the network may be used.

    Raises:
        UserError: No place had the files; the message lists what was tried.
    """

    mirrors: ClassVar = [
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        *torchvision.datasets.FashionMNIST.mirrors,
    ]
    # Size and MD5 of the uncompressed files: gzip files differ from packager to packager.
    files: ClassVar = {
        "train-images-idx3-ubyte": (47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        "train-labels-idx1-ubyte": (60_008, "9018921c3c673c538a1fc5bad174d6f9"),
        "t10k-images-idx3-ubyte": (7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
        "t10k-labels-idx1-ubyte": (10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
    }

    def __init__(self, root: str | Path, train: bool = True, download: bool = True, **kwargs: Any) -> None:
        self._network = download
        self._damaged: set[str] = set()
        # torchvision calls download() only on request, but local copies are wanted in any case
        super().__init__(expand(root), train=train, download=True, **kwargs)

    @property
    def raw_folder(self) -> str:
        """The folder of the files, which torchvision names after the class."""
        return str(Path(self.root) / "FashionMNIST" / "raw")

    def _check_legacy_exist(self) -> bool:
        return False  # the unverified .pt files of torchvision before 0.9

    def _check_exists(self) -> bool:
        return not self._missing()

    def _load_data(self) -> tuple[Tensor, Tensor]:
        prefix = "train" if self.train else "t10k"
        labels = torch.frombuffer(self._raw(f"{prefix}-labels-idx1-ubyte"), dtype=torch.uint8, offset=8)
        images = torch.frombuffer(self._raw(f"{prefix}-images-idx3-ubyte"), dtype=torch.uint8, offset=16)
        return images.view(len(labels), 28, 28), labels.long()

    def _raw(self, name: str) -> bytearray:
        """Reads a file; one that has been damaged is fetched anew."""
        path = Path(self.raw_folder) / name
        content = bytearray(path.read_bytes())
        if not self._is_published(name, content):
            self._damaged.add(name)
            self.download()
            content = bytearray(path.read_bytes())
        return content

    def _is_published(self, name: str, content: bytes | bytearray) -> bool:
        return hashlib.md5(content, usedforsecurity=False).hexdigest() == self.files[name][1]

    def _missing(self) -> dict[str, str]:
        """Returns the files that are absent, have a wrong size or were found damaged, with the reason."""
        reasons = {}
        for name, (size, _) in self.files.items():
            path = Path(self.raw_folder) / name
            if not path.is_file():
                reasons[name] = "missing"
            elif path.stat().st_size != size:
                reasons[name] = f"{path.stat().st_size} bytes instead of {size}"
            elif name in self._damaged:
                reasons[name] = "damaged"
        return reasons

    def download(self) -> None:
        """Completes the files in ``raw_folder``; does nothing, and writes nothing, if all are there."""
        failures = []
        for place, fetch in self._places():
            for name in self._missing():
                try:
                    content = self._verified(name, fetch(name))
                except _FETCH_ERRORS as error:
                    failures.append(f"{place}: {error}")
                    break
                Path(self.raw_folder).mkdir(parents=True, exist_ok=True)
                write_whole(Path(self.raw_folder) / name, content)
                self._damaged.discard(name)
            else:
                return
        raise UserError(self._complaint(failures))

    def _places(self) -> Iterator[tuple[str, Fetch]]:
        """Yields the places to look at, cheapest first, each with a function from name to contents."""
        for folder in (self.raw_folder, os.environ.get("FMNIST_DATA", SYSTEM_COPY)):
            yield str(folder), partial(_read, Path(folder))
        if not self._network:
            return
        for mirror in self.mirrors:
            yield mirror, partial(_download, mirror)
        with TemporaryDirectory() as folder:
            yield f"apt-get download {PACKAGE}", partial(_read_package, Path(folder))

    def _verified(self, name: str, content: bytes) -> bytes:
        size, _ = self.files[name]
        if content[:2] == b"\x1f\x8b":  # gzip; read at most one byte too many, so that a bomb does no harm
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(size + 1)
        if not self._is_published(name, content):
            raise _WrongContentError(f"{name} is not the published file (its MD5 differs)")
        return content

    def _complaint(self, failures: list[str]) -> str:
        wrong = ", ".join(f"{name} ({reason})" for name, reason in self._missing().items())
        network = "" if self._network else " (download: false)"
        return (
            f"Fashion-MNIST is incomplete in {self.raw_folder}: {wrong}. "
            f"Tried{network} {'; '.join(failures)}. Put the four files, gzipped or not, into that folder, "
            f"or set FMNIST_DATA to a folder that holds them."
        )


class _WrongContentError(Exception):
    """A file was fetched but is not what was published."""


_FETCH_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    zlib.error,
    http.client.HTTPException,
    subprocess.SubprocessError,
    _WrongContentError,
)


def _read(folder: Path, name: str) -> bytes:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path.read_bytes()
    raise FileNotFoundError(f"no {name}[.gz] there")


def _download(mirror: str, name: str) -> bytes:
    url = f"{mirror}{name}.gz"
    start = time.monotonic()
    content = bytearray()
    with _open(url) as response:
        # disable=None: no bar where standard error is not a terminal
        with tqdm(total=response.length, unit="B", unit_scale=True, desc=name, disable=None, file=sys.stderr) as bar:
            while chunk := response.read1(1 << 16):
                content += chunk
                bar.update(len(chunk))
                seconds = time.monotonic() - start
                if seconds > PATIENCE and len(content) < MIN_RATE * seconds:
                    raise TimeoutError(f"slower than {MIN_RATE // 1000} kB/s")
                if len(content) > 1 << 26:
                    raise OSError("sends more than 64 MiB")
        if response.length:
            raise OSError(f"ends {response.length} bytes early")
    return bytes(content)


def _open(url: str) -> http.client.HTTPResponse:
    """Opens ``url`` within ``PATIENCE`` seconds, name look-up and all addresses of the host included."""
    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=PATIENCE))
        except urllib.error.HTTPError as error:
            error.close()
            answers.put(OSError(f"{error.code} {error.reason}"))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise TimeoutError(f"no answer in {PATIENCE} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer  # type: ignore[no-any-return]


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
            "Acquire::http::Timeout": PATIENCE,
            "Acquire::https::Timeout": PATIENCE,
        }
        apt = ["apt-get", *(f"-o{key}={value}" for key, value in options.items())]
        run = partial(subprocess.run, cwd=folder, capture_output=True, text=True, timeout=600)
        try:
            run([*apt, "update"], timeout=APT_UPDATE_LIMIT)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"no answer in {APT_UPDATE_LIMIT} s") from None
        got = run([*apt, "download", PACKAGE])
        if got.returncode != 0:
            raise OSError(" ".join(got.stderr.split()) or "failed")
        (package,) = folder.glob("*.deb")
        run(["dpkg-deb", "-x", package, "unpacked"], check=True)
    return _read(folder / "unpacked" / SYSTEM_COPY[1:], name)
