"""Everything that ships as a file and is not Python: the README's commands and the configurations."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from fmnist.sweep.space import read_plan
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
COMMANDS = [line.split("#")[0].strip() for line in BASH.splitlines() if line.startswith("python -m fmnist")]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def clone(workplace, monkeypatch):
    """A folder with the configurations, where the README's commands can be typed."""
    for name in ("configs", "docs", "examples"):
        (workplace / name).symlink_to(ROOT / name)
    monkeypatch.syspath_prepend(workplace)
    return workplace


def test_commands_of_the_readme_work(clone, cli):
    assert len(COMMANDS) > 10
    small = ["--data.val_size", "100", "--trainer.max_epochs", "1"]
    assert cli("fit", "--config", "configs/mlp.yaml", *small)[0] == 0
    for command in COMMANDS:
        words = shlex.split(command)[3:]
        if words[0] == "sweep":
            assert read_plan(Path(words[1])).space  # test_sweep.py trains
            continue
        if words[0] == "serve":
            continue  # test_serve.py does
        if words[0] == "audit":
            continue  # test_audit.py does, with runs of folds
        if words[0] == "prepare":
            words += small[:2]
        if words[0] == "fit" and "--help" not in words:
            words += small[2:] if "--data.val_size" in words else small
        if "--data.source.folder" in words or "--data.source.img_dir" in words:
            words.append("--print_config")  # test_own_data.py trains on own pictures
        if "--trainer.devices" in words:
            words[words.index("gpu")] = "cpu"
            words.append("--print_config")  # test_distributed.py trains on several devices
        code, _, err = cli(*words)
        assert (code, err) == (0, ""), command


def test_notebook_of_the_readme_works(clone):
    (code,) = re.findall(r"```python\n(from lightning.*?)```", README, re.DOTALL)
    quiet = "max_epochs=1, accelerator='cpu', logger=False, enable_progress_bar=False, enable_model_summary=False"
    code = code.replace("max_epochs=3", quiet).replace("batch_size=128", "batch_size=8, val_size=100")
    names = {}
    exec(code, names)
    assert names["trainer"].callback_metrics["test/num_samples"] == 200


def test_prediction_of_the_readme_works(clone, cli, capsys):
    (code,) = re.findall(r"```python\n(from fmnist import load.*?)```", README, re.DOTALL)
    assert cli("fit", "--config", "configs/mlp.yaml", "--data.val_size", 100, "--trainer.max_epochs", 1)[0] == 0
    exec(code, {})
    assert "light background: inverted" in capsys.readouterr().out


def test_scripts_of_the_readme_exist():
    text = README + "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    scripts = set(re.findall(r"python (benchmarks/\w+\.py)", text))
    assert scripts == {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")}


def test_ci_types_the_command_of_the_readme():
    commands = re.findall(r"^python3 -m venv .*pytest$", README, re.MULTILINE)
    assert len(commands) == 1
    assert "-r requirements.lock" in commands[0]
    assert "'^python3 -m venv .*pytest$' README.md" in (ROOT / ".ci" / "run").read_text()


def test_tree_of_the_readme_lists_every_module():
    for path in (ROOT / "fmnist").rglob("*.py"):
        assert path.name == "__init__.py" or path.name in README, path.name


def test_lock_file_has_hashes_and_no_addresses():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "lightning==2.6.6" in lock
    packages = re.findall(r"^[a-z][\w.-]*==\S+ \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert len(packages) == len(re.findall(r"==", lock))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_configurations_are_short_and_survive_a_round_trip(clone, cli, config):
    assert len(config.read_text().splitlines()) <= 25
    code, printed, err = cli("fit", "--config", config, "--print_config")
    assert (code, err) == (0, "")
    (clone / "printed.yaml").write_text(printed)
    assert cli("fit", "--config", "printed.yaml", "--print_config")[1] == printed


def test_quickstart_is_the_reference_recipe(clone, cli):
    printed = yaml.safe_load(cli("fit", "--config", "configs/quickstart.yaml", "--print_config")[1])
    model, data = printed["model"], printed["data"]
    assert model["hidden_dims"] == [512, 512]
    assert (model["mean"], model["std"], model["dropout"], model["label_smoothing"]) == (0, 1, 0, 0)
    assert (model["normalization"], model["activation"], model["lr_schedule"]) == ("none", "relu", "constant")
    assert model["optimizer"]["class_path"] == "torch.optim.SGD"
    settings = model["optimizer"]["init_args"]
    assert (settings["lr"], settings["momentum"], settings["weight_decay"]) == (1e-3, 0, 0)
    assert (data["batch_size"], data["val_size"], data["flip"], data["shift"]) == (64, 0, False, 0)
    assert printed["trainer"]["max_epochs"] == 5


def test_main_job_keeps_the_network_of_the_reference_recipe(clone, cli):
    assert cli("fit", "--config", "configs/mlp.yaml", "--data.val_size", 100, "--trainer.max_epochs", 1)[0] == 0
    checkpoint = torch.load("lightning_logs/version_0/checkpoints/best.ckpt", weights_only=True)
    shapes = [tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items() if tensor.ndim == 2]
    assert shapes == [(512, 784), (512, 512), (10, 512)]
    config = yaml.safe_load((ROOT / "configs/mlp.yaml").read_text())
    assert config["model"]["hidden_dims"] == [512, 512]
    assert config["model"]["optimizer"]["class_path"] == "torch.optim.SGD"
    assert not {"label_smoothing", "class_weights", "network"} & config["model"].keys(), "plain cross-entropy"


def test_the_project_speaks_of_itself_alone():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "lightning_logs/.gitignore" in tracked
    other = [name for name in tracked if not name.startswith("tests/old/")]
    assert not [name for name in other if name.endswith((".ckpt", ".gz")) or "ubyte" in name]
    assert sum((ROOT / name).stat().st_size for name in {*tracked} - {*other}) < 200_000
