"""Classifies picture files, any number of them, as a stream."""

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from fmnist.data.photos import Converted, PictureError
from fmnist.data.read import SUFFIXES, find_in_folder, find_matches, pay_threads
from fmnist.errors import UserError, check
from fmnist.files import expand
from fmnist.inference.predictions import Row, make_rows
from fmnist.inference.predictor import Predictor, describe_typicality
from fmnist.model.explain import draw

CHUNK = 512  # files that are in memory at the same time


def find_pictures(specs: Sequence[str]) -> list[str]:
    """Lists the files that ``--images`` means, each once, sorted.

    Args:
        specs: Each a file; a folder, searched with all its folders for files with the ending of a picture; or
            a pattern, in which ``**`` stands for any folders. A shell may have expanded one into several.

    Raises:
        UserError: One of them means no file.
    """
    return sorted({name for spec in specs for name in _find(spec)})


def _find(spec: str) -> list[str]:
    check(bool(spec.strip()), "--images is empty: give a picture, a folder or a pattern")
    path = expand(spec)
    if path.is_dir():
        found = find_in_folder(path)
        check(bool(found), f"--images {spec}: the folder holds no pictures ({', '.join(SUFFIXES)})")
    elif path.exists():
        found = [str(path)]
    else:
        found = find_matches(path)
        check(bool(found), f"--images {spec}: there is no such file or folder, and nothing matches")
    return found


def classify_files(
    predictor: Predictor,
    paths: list[str],
    save_converted: Path | None = None,
    explain: Path | None = None,
    failed: list[str] | None = None,
    empty: list[str] | None = None,
) -> Iterator[Row]:
    """Yields a row per file, in order: path, prediction, note, error.

    Args:
        predictor: A trained model.
        paths: The files.
        save_converted: Folder for the input of the network for each file, as PNG.
        explain: Folder for the same next to what ``fmnist.model.explain`` draws.
        failed: Gets the reason for each file that cannot be read.
        empty: Gets each file that is nothing but background.

    Raises:
        UserError: At the end, if not one of the files could be read.
    """
    failed = [] if failed is None else failed
    base = _find_base(paths) if save_converted or explain else ""
    bar = tqdm(total=len(paths), unit="file", disable=None, file=sys.stderr)
    with ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            results = list((pool.map if pay_threads(chunk) else map)(partial(_convert, predictor), chunk))
            for path, result, row in zip(chunk, results, _make_rows(predictor, results), strict=True):
                name = os.fsencode(path).decode(errors="backslashreplace")
                if row["error"]:
                    failed.append(f"{name} {row['error']}")
                elif row["predicted"] is None and empty is not None:
                    empty.append(name)
                if isinstance(result, Converted) and base:
                    place = os.path.relpath(os.path.abspath(path), base)  # noqa: PTH100
                    place += "" if place.lower().endswith(".png") else ".png"
                    row["note"] += _save_all(predictor, result, row, save_converted, explain, place)
                yield {"path": name, **row}
            bar.update(len(chunk))
    if len(failed) == len(paths):
        none = f"none of the {len(paths):,} files could be read: " if len(paths) > 1 else ""
        raise UserError(f"{none}{failed[0]}")


def _find_base(paths: Sequence[str]) -> str:
    try:
        return os.path.commonpath([Path(os.path.abspath(path)).parent for path in paths])  # noqa: PTH100 - drops ".."
    except ValueError as error:  # Windows has several drives
        raise UserError("--save_converted and --explain need pictures of one drive") from error


def _convert(predictor: Predictor, path: str) -> Converted | PictureError:
    try:
        return predictor.convert(path)
    except PictureError as error:
        return error


def _make_rows(predictor: Predictor, results: list[Converted | PictureError]) -> Iterator[Row]:
    images = [result.image for result in results if isinstance(result, Converted) and not result.empty]
    rows = make_rows(predictor.predict(torch.stack(images)), predictor.class_names) if images else iter(())
    columns = ("predicted", "probability", *(f"p({name})" for name in predictor.class_names), "typicality")
    nothing = dict.fromkeys(columns)
    for result in results:
        if isinstance(result, Converted) and result.empty:
            yield {**nothing, "note": result.note, "error": None}
        elif isinstance(result, Converted):
            row = next(rows)
            yield {**row, "note": describe_typicality(result.note, row["typicality"]), "error": None}
        else:
            yield {**nothing, "note": None, "error": str(result)}


def _save_all(
    predictor: Predictor, result: Converted, row: Row, seen: Path | None, why: Path | None, place: str
) -> str:
    """Saves the input of the network, and which pixels decided. Returns what is added to the note."""
    note = _save(result.image.movedim(0, -1).squeeze(-1), seen / place) if seen else ""
    if note or not why or result.empty:
        return note
    label = predictor.class_names.index(row["predicted"])
    return _save(draw(predictor.model, result.image, label, row["probability"]), why / place)


def _save(image: torch.Tensor, path: Path) -> str:
    """Saves a picture. Returns what is added to the note: a name can be too long with the ending that it gets."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return "; not saved: its name is too long"
    return ""
