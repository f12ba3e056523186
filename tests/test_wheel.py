"""The package as it is installed elsewhere: everything that it needs at run time is in the wheel."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LITTLE = ("--model.hidden_dims=[8]", "--data.batch_size=1000", "--trainer.max_epochs=1")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel and nothing else. Returns it."""
    place = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(
        ROOT,
        place / "source",
        ignore=lambda top, names: (
            {*names} - {"fmnist", "pyproject.toml", "README.md", "LICENSE"} if top == str(ROOT) else []
        ),
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", source, "--no-deps", "--no-build-isolation", "-w", place], check=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", wheel, "--no-deps", "--target", place / "site"], check=True)
    return place / "site"


def test_an_installed_wheel_trains_tests_and_predicts(installed, real_root, tmp_path):
    assert sorted(path.name for path in (installed / "fmnist").glob("*/*.j2")) == ["page.html.j2", "report.html.j2"]
    env = {**os.environ, "PYTHONPATH": str(installed)}
    for words in (("fit", *LITTLE, f"--data.source.root={real_root}"), ("test",), ("predict", "--output=out.csv")):
        code = (
            "import fmnist, sys; from fmnist.__main__ import main; print(fmnist.__file__); sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(str(installed))
    assert (tmp_path / "lightning_logs/version_0/test/report.html").is_file()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 10_001
