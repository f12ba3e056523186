"""Everything that ships as a file and is not Python: the commands of README and docs, and the configurations."""

import re
import shlex
import subprocess
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from fmnist import load
from fmnist.data.sources.download import VerifiedFashionMNIST
from fmnist.sweep.plan import read_plan
from tests.conftest import ROOT, train

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCKS = re.findall(r"```bash\n(.*?)```", "\n".join([README, *DOCS.values()]), re.DOTALL)
LINES = "\n".join(BLOCKS).splitlines()
COMMAND = r"(?:python -m )?fmnist (.*)"
TYPED = [words for line in LINES for words in re.findall(f"^{COMMAND}", line)]
COMMANDS = [*dict.fromkeys(words.split("  #")[0].strip() for words in TYPED)]
FIT = "fit --config configs/mlp.yaml"  # the README's first command
LITTLE = ["--data.val_size", "100", "--trainer.max_epochs", "1"]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def clone(workplace, monkeypatch):
    """A folder with the configurations and some photos, where the commands of README and docs can be typed."""
    for name in ("configs", "docs", "examples"):
        (workplace / name).symlink_to(ROOT / name)
    for index in range(60):
        folder = workplace / "photos" / ("boot", "shirt")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), index).save(folder / f"{index}.png")
    monkeypatch.syspath_prepend(workplace)
    return workplace


def shorten(words):
    """Returns what is typed in place of a command that takes long or needs what a test has not; None for nothing."""
    if words[0] in ("sweep", "serve", "audit") or (words[0] == "compare" and len(words) > 1):
        return None  # test_sweep.py, test_serve.py and test_audit.py do
    if words[0] == "prepare" and "--config" not in words:
        return [*words, *LITTLE[:2]]
    if words[0] == "export":
        return [*words, "--overwrite"]  # README and docs write the same file
    if words[0] != "fit" or "--help" in words:
        return words
    words = [*words, *(LITTLE[2:] if {"--data.val_size", "--ckpt_path"} & {*words} else LITTLE)]
    if "--ckpt_path" not in words:
        networks = {f"configs/{name}.yaml" for name in ("convnet", "folder", "csv", "parquet")}
        if "configs/pretrained.yaml" not in words:
            words.append("--model.network.width=2" if networks & {*words} else "--model.hidden_dims=[8,8]")
    own = {"--data.source.folder", "--data.source.img_dir", "--data.source.train", "--model.weights"} & {*words}
    if "--trainer.devices" in words:
        words[words.index("--trainer.accelerator") + 1] = "cpu"
    if own or "--trainer.devices" in words:
        words.append("--print_config")  # test_own_data.py, test_examples.py and test_distributed.py train
    return words


def masked(line):
    """Returns a printed line without what depends on the training: numbers, digests and names of classes."""
    line = re.sub("|".join(map(re.escape, VerifiedFashionMNIST.classes)), "CLASS", line)
    line = re.sub("; (typicality not known|unlike the training images)", "", line)
    return " ".join(re.sub(r"\b[0-9a-f]{16}\b|\d[\d.,]*(e-\d+)?", "0", line).split())


def outputs():
    """Yields each command of the README that is followed by what it prints, and these lines."""
    install, printed = re.search(r"python -m fmnist ([^\n]*).*?```text\n(.*?)```", README, re.DOTALL).groups()
    assert install == FIT
    yield install, printed.splitlines()
    for block in BLOCKS:
        for command, lines in re.findall(rf"^{COMMAND}\n((?:# .*\n)+)", block, re.MULTILINE):
            yield command.split("  #")[0].strip(), [line[2:] for line in lines.splitlines()]


def test_commands_of_readme_and_docs_work_and_print_what_is_shown(clone, cli):
    """Apart from numbers: those of the real trainings cannot be had in a test."""
    shown = defaultdict(list)
    for command, lines in outputs():
        shown[command] += lines
    compared = 0
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "sweep":
            plan = read_plan(Path(words[1]))
            assert plan.search or plan.named  # test_sweep.py trains
        words = shorten(words)
        if words:
            code, out, err = cli(*words)
            assert (code, err) == (0, ""), command
            printed = {masked(line) for line in out.splitlines()}
            for line in shown[command]:
                unlike = line.endswith("warning: unlike the training images")  # a small network may not see that
                assert line == "..." or unlike or masked(line) in printed, (command, line)
                compared += 1
    assert COMMANDS[0] == FIT, "the others use what it has trained"
    assert len(COMMANDS) > 30
    assert compared > 20


def test_notebook_of_the_docs_works(clone):
    (code,) = re.findall(r"```python\n(from lightning.*?)```", DOCS["extend.md"], re.DOTALL)
    quiet = "max_epochs=1, accelerator='cpu', logger=False, enable_progress_bar=False, enable_model_summary=False"
    code = code.replace("max_epochs=3", quiet).replace("batch_size=128", "batch_size=8, val_size=100")
    names = {}
    exec(code, names)
    assert names["trainer"].callback_metrics["test/num_samples"] == 200


def test_prediction_of_the_docs_works(clone, cli, capsys):
    (code,) = re.findall(r"```python\n(from fmnist import load.*?)```", DOCS["own-pictures.md"], re.DOTALL)
    assert cli(*shlex.split(FIT), *LITTLE)[0] == 0
    exec(code, {})
    assert "light background: inverted" in capsys.readouterr().out


def test_weights_are_loaded_in_plain_pytorch(real_root, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(import torch.*?)```", README, re.DOTALL)
    assert "fmnist" not in code
    train(tmp_path, real_root, "--trainer.max_epochs=1")
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(real_root)
    names = {}
    exec(code, names)
    expected = load("version_0").classify(VerifiedFashionMNIST(real_root, train=False).data[0])
    assert names["data"].classes[names["probabilities"].argmax()] == expected.name == "Ankle boot"
    assert names["probabilities"].max().item() == pytest.approx(expected.probability, abs=1e-5)


def test_scripts_of_the_readme_exist():
    scripts = set(re.findall(r"python (benchmarks/\w+\.py)", "\n".join([README, *DOCS.values()])))
    assert scripts == {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")}


def test_ci_types_the_command_of_the_readme():
    """One line that installs and trains, and one that installs and tests; the short commands above train the same."""
    commands = re.findall(r"^python3 -m venv .* && .*$", README, re.MULTILINE)
    train, test = (command for command in commands if command.startswith("python3 -m venv .venv && .venv/bin/pip"))
    assert train.endswith(f"-m fmnist {FIT}")
    assert FIT in BLOCKS[0]
    assert "-r requirements.txt" in test
    assert re.findall(r"^python3 -m venv .*pytest$", README, re.MULTILINE) == [test]
    assert "'^python3 -m venv .*pytest$' README.md" in (ROOT / ".ci" / "run").read_text()


def test_three_files_are_as_short_as_the_readme_says():
    files, about = re.search(r"Three files, about (\d+) lines: (.*)", README).group(2, 1)
    paths = re.findall(r"\((fmnist/[^)]*)\)", files)
    assert len(paths) == 3
    lines = sum(len((ROOT / path).read_text().splitlines()) for path in paths)
    assert lines == pytest.approx(int(about), rel=0.1)


def test_tree_of_the_readme_lists_every_module():
    for path in (ROOT / "fmnist").rglob("*.py"):
        assert path.name == "__init__.py" or path.name in README, path.name


def test_lock_file_has_hashes_and_no_addresses():
    lock = (ROOT / "requirements.txt").read_text()
    assert "://" not in lock
    assert "lightning==2.6.6" in lock
    packages = re.findall(r"^([a-z][\w.-]*)==\S+(?: ; .*)? \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert len(packages) == len({*packages}) == len(re.findall(r"^\S+==", lock, re.MULTILINE))
    assert len(lock) < 500_000, "Dependabot reads no larger one"


def test_the_group_of_developers_needs_no_index_for_this_package():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    wanted = [line for group in groups.values() for line in group if isinstance(line, str)]
    assert len(wanted) > 5
    assert not [line for line in wanted if line.startswith("fmnist")]


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


def test_every_value_of_the_main_job_is_explained():
    text = (ROOT / "configs/mlp.yaml").read_text()
    values = [line for line in text.splitlines() if re.match(r" *\w+: ", line) and "class_path" not in line]
    assert not [line for line in values if " # " not in line]
    headings = re.findall(r"^## (\w+)$", DOCS["recipe.md"], re.MULTILINE)
    assert sorted(re.findall(r"docs/recipe.md#(\w+)", text)) == sorted(headings)


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
