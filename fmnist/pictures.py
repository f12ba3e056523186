"""Classifies picture files, any number of them, as a stream."""

import glob
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from fmnist.errors import check
from fmnist.photos import SUFFIXES, Converted, PictureError, find_in_folder, read_picture
from fmnist.predictions import Row, describe
from fmnist.predictor import Predictor

CHUNK = 512  # files that are in memory at the same time
SHARE = 64  # of which a thread takes so many at once


def find_pictures(spec: str) -> list[str]:
    """Lists the files that ``--images`` means, sorted.

    Args:
        spec: A file; a folder, searched with all its folders for files with the ending of a picture; or
            a pattern, in which ``**`` stands for any folders.

    Raises:
        UserError: There are none.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        found = find_in_folder(path)
        check(bool(found), f"--images {spec}: the folder holds no pictures ({', '.join(SUFFIXES)})")
    elif path.exists():
        found = [str(path)]
    else:
        found = [name for name in glob.glob(str(path), recursive=True) if not Path(name).is_dir()]  # noqa: PTH207
        check(bool(found), f"--images {spec}: there is no such file or folder, and nothing matches")
    return sorted(found)


def classify_files(predictor: Predictor, paths: list[str], save_converted: Path | None = None) -> Iterator[Row]:
    """Yields a row per file, in order: path, prediction, note, error.

    Args:
        predictor: A trained model.
        paths: The files.
        save_converted: Folder for what the network saw of each file, as PNG.

    Raises:
        UserError: At the end, if not one of the files could be read.
    """
    failed, first_error = 0, ""
    base = os.path.commonpath([Path(path).parent for path in paths])
    bar = tqdm(total=len(paths), unit="file", disable=None, file=sys.stderr)
    with ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            shares = (chunk[begin : begin + SHARE] for begin in range(0, len(chunk), SHARE))
            results = [result for share in pool.map(_read, shares) for result in share]
            for path, result, row in zip(chunk, results, _describe(predictor, results), strict=True):
                name = os.fsencode(path).decode(errors="backslashreplace")
                if row["error"]:
                    failed, first_error = failed + 1, first_error or f"{name} {row['error']}"
                elif save_converted:
                    _save(result, save_converted / f"{os.path.relpath(path, base)}.png")
                yield {"path": name, **row}
            bar.update(len(chunk))
    check(failed < len(paths), f"none of the {len(paths):,} files could be read: {first_error}")


def _read(paths: list[str]) -> list[Converted | PictureError]:
    return [_read_one(path) for path in paths]


def _read_one(path: str) -> Converted | PictureError:
    try:
        return read_picture(path)
    except PictureError as error:
        return error


def _describe(predictor: Predictor, results: list[Converted | PictureError]) -> Iterator[Row]:
    images = [result.image for result in results if isinstance(result, Converted)]
    rows = describe(predictor.probabilities(images), predictor.class_names) if images else iter(())
    nothing = dict.fromkeys(("predicted", "probability", *(f"p({name})" for name in predictor.class_names)))
    for result in results:
        if isinstance(result, Converted):
            yield {**next(rows), "note": result.note, "error": None}
        else:
            yield {**nothing, "note": None, "error": str(result)}


def _save(result: Converted | PictureError, path: Path) -> None:
    assert isinstance(result, Converted)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(result.image[0].numpy()).save(path)
