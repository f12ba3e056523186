import contextlib
import gzip
import http.server
import shutil
import threading
from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST

from fmnist.data.sources import download
from fmnist.data.sources.download import VerifiedFashionMNIST
from fmnist.errors import UserError

IMAGES = "train-images-idx3-ubyte"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def no_system_copy(small_data, monkeypatch, tmp_path):
    """No local copy, no mirror, no apt-get. Returns the folder that a mirror can serve."""
    monkeypatch.setenv("FMNIST_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(VerifiedFashionMNIST, "mirrors", [])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return small_data


@pytest.fixture
def serve(no_system_copy):
    """Starts local web servers that behave in a chosen way. Returns a function from behaviour to address."""
    servers = []
    over = threading.Event()

    def start(behaviour):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                content = (no_system_copy / Path(self.path).name).read_bytes()
                if behaviour == "wrong":
                    content = gzip.compress(b"something else")
                self.send_response(404 if behaviour == "missing" else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if behaviour == "truncated":
                    content = content[:100]
                asked.append(self.path)
                if behaviour == "silent" and len(asked) == 1:
                    over.wait(60)
                if behaviour != "missing":
                    self.wfile.write(content)

            def log_message(self, *args):
                pass

            def handle(self):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # clients give up, as they should
                    super().handle()

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def test_reads_what_the_files_hold(small_data, root):
    train, test = VerifiedFashionMNIST(root), VerifiedFashionMNIST(root, train=False)
    assert (train.data.shape, test.data.shape) == ((600, 28, 28), (200, 28, 28))
    assert train.data.dtype == torch.uint8
    assert train.targets.bincount().tolist() == [60] * 10


def test_names_and_folders_are_those_of_torchvision(small_data, root):
    original = FashionMNIST(VerifiedFashionMNIST(root).raw_folder.parents[1], download=False)
    assert original.classes == VerifiedFashionMNIST.classes
    assert original.mirrors == VerifiedFashionMNIST.mirrors[1:]
    assert torch.equal(original.data, VerifiedFashionMNIST(root).data)


def test_finds_files_put_there_by_hand(no_system_copy, root):
    shutil.copytree(no_system_copy, root / "FashionMNIST" / "raw")
    assert len(VerifiedFashionMNIST(root, download=False).data) == 600


def test_downloads_from_the_first_mirror_that_works(serve, root, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 2)
    behaviours = ("missing", "wrong", "truncated", "silent", "good")
    monkeypatch.setattr(VerifiedFashionMNIST, "mirrors", ["http://127.0.0.1:9/", *map(serve, behaviours)])
    assert len(VerifiedFashionMNIST(root).data) == 600
    assert sorted(path.name for path in VerifiedFashionMNIST(root).raw_folder.iterdir()) == sorted(
        VerifiedFashionMNIST.files
    )


def test_final_error_lists_what_was_tried(serve, root, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 2)
    mirrors = [*map(serve, ("missing", "wrong", "truncated", "silent"))]
    monkeypatch.setattr(VerifiedFashionMNIST, "mirrors", mirrors)
    with pytest.raises(UserError) as error:
        VerifiedFashionMNIST(root)
    message = str(error.value)
    for part in (*mirrors, "404", "MD5", "timed out", "no apt-get", IMAGES, "FMNIST_DATA"):
        assert part in message
    assert not any(root.rglob("*ubyte*"))


def test_download_false_stays_off_the_network(no_system_copy, root, monkeypatch):
    def refuse(*args):
        raise AssertionError("the network was used")

    monkeypatch.setattr(download, "_download", refuse)
    monkeypatch.setattr(download, "_read_package", refuse)
    monkeypatch.setattr(VerifiedFashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(UserError, match="download: false"):
        VerifiedFashionMNIST(root, download=False)


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * (16 + 600 * 784 + 1), b"x" * (16 + 600 * 784)])
def test_damaged_file_is_replaced(small_data, root, damage):
    raw = VerifiedFashionMNIST(root).raw_folder
    good = (raw / IMAGES).read_bytes()
    (raw / IMAGES).write_bytes(damage)
    VerifiedFashionMNIST(root)
    assert (raw / IMAGES).read_bytes() == good


def test_damaged_file_is_named_when_nothing_can_replace_it(small_data, root, monkeypatch, tmp_path):
    raw = VerifiedFashionMNIST(root).raw_folder
    monkeypatch.setenv("FMNIST_DATA", str(tmp_path / "nowhere"))
    for content, reason in ((b"short", "5 bytes instead of 470416"), (b"x" * 470416, "damaged")):
        (raw / IMAGES).write_bytes(content)
        with pytest.raises(UserError, match=f"{IMAGES} .{reason}"):
            VerifiedFashionMNIST(root, download=False)
        assert (raw / IMAGES).read_bytes() == content, "nothing is deleted"


@pytest.mark.signals
def test_complete_folder_is_not_written_to(small_data, root):
    raw = VerifiedFashionMNIST(root).raw_folder
    before = {path.name: path.stat().st_mtime_ns for path in [raw, *raw.iterdir()]}
    raw.chmod(0o555)
    try:
        VerifiedFashionMNIST(root)
    finally:
        raw.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in [raw, *raw.iterdir()]} == before


def test_gzip_bomb_is_not_unpacked(small_data, root):
    bomb = gzip.compress(bytes(50_000_000))
    (small_data / f"{IMAGES}.gz").write_bytes(bomb)
    with pytest.raises(UserError, match="MD5"):
        VerifiedFashionMNIST(root, download=False)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a place where not even root can write")
def test_a_file_system_that_is_read_only_needs_no_copy(small_data, tmp_path):
    assert len(VerifiedFashionMNIST("/sys/nowhere").data) == 600
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        VerifiedFashionMNIST(tmp_path / "file")


@pytest.mark.network
@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs Debian's or Ubuntu's package manager")
def test_package_of_the_operating_system(root, monkeypatch):
    monkeypatch.setenv("FMNIST_DATA", "/nowhere")
    monkeypatch.setattr(VerifiedFashionMNIST, "mirrors", [])
    assert len(VerifiedFashionMNIST(root).data) == 60_000
