"""Predictions as a table: CSV or JSON Lines, by the ending of the file."""

import codecs
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fmnist.errors import check
from fmnist.files import atomic_path, check_target
from fmnist.model.trained import Output
from fmnist.text import plain, table_cell

Row = dict[str, Any]
STDOUT = Path("-")


def check_output(path: Path, overwrite: bool) -> None:
    """Refuses, before any work is done, a file that could not be written in the end.

    Raises:
        UserError: The ending is unknown, or the file exists and may not be replaced.
    """
    if path == STDOUT:
        return
    known = path.suffix in (".csv", ".jsonl")
    check(known, f"--output {path}: the name must end in .csv or .jsonl, or be - for standard output")
    check_target(path, overwrite)


def make_rows(output: Output, class_names: list[str]) -> Iterator[Row]:
    """Yields the prediction for each image as plain values."""
    columns = [f"p({name})" for name in class_names]
    for row, best, share in output.rows():
        values = [float(f"{value:.9g}") for value in row]  # all that 32 bits hold
        yield {
            "predicted": class_names[best],
            "probability": values[best],
            **dict(zip(columns, values, strict=True)),
            "typicality": None if share is None else round(share, 4),
        }


def label_rows(
    output: Output, labels: Tensor, class_names: list[str], paths: Sequence[str] | None = None
) -> Iterator[Row]:
    """Yields a row per image of a labelled set: its index, its file, the prediction, and its label.

    Args:
        output: What a model computed for the images.
        labels: int64 (N,).
        class_names: Name of each class.
        paths: The file of each image, where they have files of their own.
    """
    for index, (row, label) in enumerate(zip(make_rows(output, class_names), labels.tolist(), strict=True)):
        file = {"path": paths[index]} if paths else {}
        yield {"index": index, **file, **row, "actual": class_names[label]}


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Writes rows of equal keys, one at a time, into a file that appears when it is complete.

    CSV with letters beyond ASCII begins with UTF-8's mark, without which spreadsheets take it for another encoding.

    Args:
        rows: At least one.
        path: A file that ends in ``.csv`` or ``.jsonl``; ``-`` for standard output, as JSON Lines.
    """
    if path == STDOUT:
        utf_8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        for row in rows:
            print(_json(row) if utf_8 else json.dumps(row))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        with part.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                file.writelines(_json(row) + "\n" for row in rows)
                return
            writer = csv.writer(file, lineterminator="\n")
            for number, row in enumerate(rows):
                if number == 0:
                    writer.writerow(map(table_cell, row))
                writer.writerow(map(table_cell, row.values()))
        content = part.read_bytes()
        if not content.isascii():
            part.write_bytes(codecs.BOM_UTF8 + content)


def _json(row: Row) -> str:
    return plain(json.dumps(row, ensure_ascii=False))  # the same for whoever reads it as JSON
