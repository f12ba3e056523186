"""Configurations in YAML: as people write them, and such that could do harm."""

import pytest

from fmnist.__main__ import main
from fmnist.runs.settings import read_settings

ALIASES = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]" for n in range(30))
CONFIGS = {
    "multiplying aliases": ALIASES,
    "a circle": "model: &m {hidden_dims: [*m]}",
    "deep nesting": "model: " + "[" * 100_000,
    "deep blocks": "- " * 50_000 + "x",
    "a long number": "seed_everything: " + "9" * 4000,
    "a class": "model: !!python/object/apply:os.system ['touch executed']",
    "too large": "# " + "x" * 2_000_000,
    "not text": "\udcff",
    "a list": "[1, 2]",
}
TWICE = {
    "model": "model:\n  dropout: 0.1\ndata: {}\nmodel:\n  normalization: batch\n",
    "dropout": "model:\n  dropout: 0.1\n  dropout: 0.1\n",
    "search": "search: {data.shift: [0]}\nsearch: {data.shift: [1]}\n",
}


@pytest.mark.parametrize("key", TWICE)
def test_a_key_that_is_there_twice_is_named(tmp_path, capsys, key):
    path = tmp_path / "twice.yaml"
    path.write_text(TWICE[key])
    with pytest.raises(ValueError, match=f"{key} is there twice, again in line"):
        read_settings(path)
    assert main(["sweep" if key == "search" else "fit", *(["--config"] if key != "search" else []), str(path)]) == 2
    err = capsys.readouterr().err
    assert f"{key} is there twice" in err
    assert err.count("\n") == 1


def test_the_same_key_in_other_sections_is_none_that_is_there_twice(tmp_path):
    (tmp_path / "c.yaml").write_text("a: &a {x: 1, y: 2}\nb: *a\nc: {x: {x: 1}}\n")
    assert read_settings(tmp_path / "c.yaml")["c"] == {"x": {"x": 1}}


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", ".1e-2", "1.e-3", "0.001"])
def test_every_way_to_write_a_number(tmp_path, text):
    (tmp_path / "c.yaml").write_text(f"lr: {text}\n")
    assert read_settings(tmp_path / "c.yaml") == {"lr": 0.001}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("command", ["fit", "prepare"])
def test_what_is_no_configuration_costs_one_line(cli, workplace, config, command):
    (workplace / "bad.yaml").write_text(CONFIGS[config], errors="surrogateescape")
    code, out, err = cli(command, "--config", "bad.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("fmnist: error: bad.yaml is not a configuration: ")
    assert len(err.splitlines()) == 1
    assert len(err) < 400
    assert [path.name for path in workplace.iterdir()] == ["bad.yaml"]
