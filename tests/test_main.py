import subprocess
import sys
import tomllib

import pytest

import fmnist
from fmnist.__main__ import VERBS
from tests.conftest import ROOT


def test_help_lists_the_verbs(cli):
    for words in ([], ["-h"], ["--help"]):
        code, out, _ = cli(*words)
        assert code == 0
        for verb in VERBS:
            assert f"  {verb} " in out


def test_version(cli):
    assert cli("--version") == (0, f"fmnist {fmnist.__version__}\n", "")


def test_wrong_verb_suggests_the_right_one(cli):
    code, _, err = cli("tset")
    assert code == 2
    assert err == "fmnist: error: there is no verb 'tset': did you mean 'test'?\n"
    assert "choose from fit" in cli("xyz")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help(cli, verb):
    code, out, err = cli(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: fmnist {verb} [options]")
    assert ("--data.val_size" in out) == (verb not in ("export", "compare"))
    assert f"example: fmnist {verb} " in out
    assert ("--model.dropout" in out) == (verb == "fit")
    assert len(out.splitlines()) < 120


def test_light_things_do_not_import_torch():
    code = "import sys, fmnist; from fmnist.__main__ import main; main(['--version']); main(['--help']); main(['x']);"
    code += "assert not {'torch', 'lightning', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_public_names_exist():
    for name in fmnist.__all__:
        assert getattr(fmnist, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fmnist.nothing  # noqa: B018


def test_console_script_and_metadata():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fmnist": "fmnist.__main__:main"}
    lightning = next(line for line in project["dependencies"] if line.startswith("lightning"))
    assert "!=2.6.2" in lightning
    assert "!=2.6.3" in lightning


def test_only_the_unified_lightning_package_is_imported():
    for path in (ROOT / "fmnist").rglob("*.py"):
        assert "import pytorch_lightning" not in path.read_text()
        assert "from pytorch_lightning" not in path.read_text()
