"""The package as it is installed elsewhere: everything that it needs at run time is in the wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from fmnist.files import find_config
from fmnist.runs.folder import BUNDLED_NOTE
from fmnist.sweep.plan import read_plan
from tests.conftest import ROOT, source

LITTLE = ("--model.hidden_dims=[8]", "--trainer.limit_train_batches=5", "--trainer.max_epochs=1")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel and nothing else. Returns it."""
    place = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(
        ROOT,
        place / "source",
        symlinks=True,
        ignore=lambda top, names: (
            {*names} - {"configs", "fmnist", "pyproject.toml", "README.md", "LICENSE"} if top == str(ROOT) else []
        ),
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", source, "--no-deps", "--no-build-isolation", "-w", place], check=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def test_an_installed_wheel_finds_its_configurations_trains_tests_and_predicts(installed, few, tmp_path):
    assert sorted(path.name for path in (installed / "fmnist").glob("*/*.j2")) == [
        "labels.html.j2",
        "page.html.j2",
        "report.html.j2",
    ]
    config = ["--config=mlp.yaml", *source(few), "--data.val_size=500"]
    picture = str(ROOT / "docs" / "boot.png")
    commands = [["predict", "--images", picture], ["fit", *config, *LITTLE], ["test"], ["predict", "--output=out.csv"]]
    code = f"import fmnist; from fmnist.__main__ import main; print(fmnist.__file__, *map(main, {commands}))"
    env = {**os.environ, "PYTHONPATH": str(installed)}
    options = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert (done.returncode, done.stderr) == (0, f"note: {BUNDLED_NOTE}\nusing the bundled config mlp.yaml\n")
    assert "Ankle boot" in done.stdout.splitlines()[1]
    assert done.stdout.splitlines()[-1] == f"{installed / 'fmnist/__init__.py'} 0 0 0 0"
    assert (tmp_path / "lightning_logs/version_0/test/report.html").is_file()
    assert yaml.safe_load((tmp_path / "lightning_logs/version_0/config.yaml").read_text())["model"]["mixup"] == 0.2
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1101


def test_its_configurations_are_there_once(installed):
    shipped = installed / "fmnist" / "configs"
    names = [path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")]
    assert {path.relative_to(shipped) for path in shipped.rglob("*.yaml")} == {*names}
    assert len([*installed.rglob("*.yaml")]) == len(names)


def test_what_is_here_comes_before_what_is_bundled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweeps = ROOT / "configs" / "sweeps"
    assert find_config("mlp.yaml") == ROOT / "configs" / "mlp.yaml"
    assert find_config("seeds.yaml", "configs/sweeps") == sweeps / "seeds.yaml"
    assert read_plan(sweeps / "seeds.yaml").search
    (tmp_path / "seeds.yaml").touch()
    for name in ("seeds.yaml", "none.yaml", "../configs/mlp.yaml", "x" * 300):
        assert find_config(name, "configs/sweeps") == Path(name)


def test_a_zip_of_the_package_has_them(installed, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "fmnist"), "zip", installed, "fmnist")
    code = "from fmnist.cli.resolve import read_config; print(read_config('mlp.yaml')['model']['mixup'])"
    env = {**os.environ, "PYTHONPATH": archive}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0.2\n"), done.stderr
