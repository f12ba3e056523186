"""A real browser for the tests of pages: the machine's own Chromium, or Debian's, fetched without installing it."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def open_browser(shared):
    """Starts Chromium; one that has to be fetched is ``shared``."""
    path, env = next(filter(None, map(shutil.which, NAMES)), None), {}
    if not path:
        root = shared("chromium", fetch) / "root"
        libraries = {str(library.parent) for library in root.rglob("*.so*")}
        path, env = root / "usr/lib/chromium/chromium", {"LD_LIBRARY_PATH": ":".join(libraries)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, env={**os.environ, **env}, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def fetch(folder):
    """Unpacks Debian's package and those it needs into a folder, below ``root``."""
    if not shutil.which("apt-get"):
        pytest.skip("no Chromium on this machine: install it to test the pages")
    for place in ("lists/partial", "cache/archives/partial", "root"):
        (folder / place).mkdir(parents=True)
    settings = {
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Debug::NoLocking": 1,
    }
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in settings.items())]
    subprocess.run([*apt, "update"], check=True, capture_output=True)
    install = ["install", "--yes", "--download-only", "--no-install-recommends", "chromium"]
    subprocess.run([*apt, *install], check=True, capture_output=True)
    for package in (folder / "cache" / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
