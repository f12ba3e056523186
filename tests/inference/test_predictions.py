import csv
import json

import pytest
import torch

from fmnist import UserError
from fmnist.inference.predictions import check_output, label_rows, make_rows, write_rows
from fmnist.model.trained import Output

NAMES = ["cat", 'dog, "big"', "föhn"]


def rows():
    probabilities = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]])
    return label_rows(Output(probabilities.log(), probabilities, None), torch.tensor([1, 2]), NAMES)


def test_a_prediction_as_plain_values():
    shares = torch.tensor([[0.125, 0.75, 0.0625]])
    (found,) = make_rows(Output(shares.log(), shares, None), NAMES)
    name = NAMES[1]
    probabilities = {"p(cat)": 0.125, f"p({name})": 0.75, "p(föhn)": 0.0625}
    assert found == {"predicted": name, "probability": 0.75, **probabilities, "typicality": None}


def test_csv(tmp_path):
    write_rows(rows(), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8-sig") as file:
        found = list(csv.DictReader(file))
    assert [row["index"] for row in found] == ["0", "1"]
    assert found[0]["predicted"] == NAMES[1]
    assert found[1]["actual"] == "föhn"
    assert float(found[1]["p(cat)"]) == 0.5


def test_json_lines(tmp_path):
    write_rows(rows(), tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found == list(rows())


def test_existing_file_is_kept_unless_told_otherwise(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("precious")
    with pytest.raises(UserError, match="add --overwrite"):
        check_output(path, overwrite=False)
    check_output(path, overwrite=True)
    with pytest.raises(UserError, match=r"must end in \.csv or \.jsonl"):
        check_output(tmp_path / "out.txt", overwrite=False)


def test_failure_in_the_middle_leaves_no_file(tmp_path):
    def broken():
        yield {"index": 0}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_rows(broken(), tmp_path / "out.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "mark"), [("Bag", b""), ("包", b"\xef\xbb\xbf"), ("Sac à main", b"\xef\xbb\xbf")])
def test_a_spreadsheet_is_told_the_encoding_where_it_matters(tmp_path, name, mark):
    write_rows([{"index": 0, "predicted": "Bag"}, {"index": 1, "predicted": name}], tmp_path / "a.csv")
    content = (tmp_path / "a.csv").read_bytes()
    assert content == mark + f"index,predicted\n0,Bag\n1,{name}\n".encode()
    write_rows([{"index": 1, "predicted": name}], tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes()[:1] == b"{"
