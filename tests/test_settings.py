"""Configurations in YAML, as people write them."""

import pytest

from fmnist.__main__ import main
from fmnist.runs.settings import read_settings

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
