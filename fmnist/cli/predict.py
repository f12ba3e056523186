"""The options of ``predict``, and ``predict --images``: pictures, into a file or on the screen, without Lightning."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fmnist.cli.console import quiet, say
from fmnist.cli.options import PlainParser, add_checkpoint_arguments, add_transform, refuse_stray, suggest
from fmnist.cli.resolve import find_start
from fmnist.devices import check_device, find_device
from fmnist.errors import UserError, check
from fmnist.files import check_unused, expand
from fmnist.inference.predictions import STDOUT, check_output, write_rows
from fmnist.inference.predictor import UNKNOWN_NOTE, UNLIKE_NOTE, Predictor
from fmnist.inference.stream import classify_files, find_pictures
from fmnist.runs.checkpoint import load_members
from fmnist.runs.tables import percent
from fmnist.text import display_width, pad

EXAMPLE = "fmnist predict --images photos --output predictions.csv"
NOWHERE = "give --output FILE.csv, FILE.jsonl or -, or show some: --index 0 (a test image), --images PICTURE (your own)"
USUAL_NOTES = ("", UNKNOWN_NOTE, "light background: inverted", "dark background: kept")
TRAINER_OPTIONS = ("--trainer.", "--data.", "--model.", "--seed_everything")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``predict`` that the Trainer does not have."""
    images = "Pictures, folders or patterns to classify instead of the test images."
    parser.add_argument("--images", nargs="+", type=str, metavar="PATH", help=images)
    add_transform(parser)
    parser.add_argument("--output", type=str, help="File to write, .csv or .jsonl, or - for standard output.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the file if it exists.")
    parser.add_argument("--index", type=int, help="Print the prediction for this test image instead.")
    parser.add_argument("--save_converted", type=str, help="Write each picture as the network sees it to this folder.")
    parser.add_argument(
        "--explain",
        type=str,
        help="Write heat maps to this folder: orange pixels support the class, blue ones oppose it.",
    )


def run(description: str, argv: list[str]) -> None:
    """Classifies pictures, without Lightning, whose import would take longer than classifying a thousand."""
    parser = PlainParser("predict", description, EXAMPLE)
    add_arguments(parser)
    add_checkpoint_arguments(parser)
    parser.add_argument("--trainer.accelerator", dest="accelerator", default="auto")
    settings, rest = parser.parse_known_args(argv)
    options = (argument for argument in rest if argument.startswith("-"))
    strange = next((option for option in options if not option.startswith("--model.network.")), None)
    if strange:
        needless = strange.startswith(TRAINER_OPTIONS)
        check(not needless, f"{strange} is of no use with --images, which needs no trainer and no data: leave it out")
        raise UserError(suggest(strange.partition("=")[0], parser.names))
    if rest:
        refuse_stray(rest[0])  # values of --model.network.SETTING come after it
    check(settings.index is None, "--index prints the prediction for one test image: leave out --output and --images")
    quiet()
    check_device(settings.accelerator)
    device = find_device(settings.accelerator)
    if device is None:
        raise UserError(f"--trainer.accelerator {settings.accelerator} is not known here: give auto, cpu, gpu or mps")
    paths = _check_pictures(settings)
    start = find_start("predict", argv)
    model = load_members(start.members, start.network).to(device)
    start.announce(device)
    _classify(Predictor(model, start.checkpoint["conversion"], start.transform), paths, settings)


def check_output_option(settings: Any) -> Path:
    """Returns the file of ``--output``, once it is known that it can be written."""
    if settings.output is None:
        raise UserError(NOWHERE)
    output = expand(settings.output)
    check_output(output, settings.overwrite)
    return output


def _check_pictures(settings: Any) -> list[str]:
    output = check_output_option(settings) if settings.output else None
    paths = find_pictures(settings.images)
    check(str(output) not in paths, f"--output {output}: this is one of the pictures")
    for option in ("save_converted", "explain"):
        if getattr(settings, option):
            _check_folder(f"--{option}", expand(getattr(settings, option)), settings.images)
    return paths


def _check_folder(option: str, folder: Path, images: list[str]) -> None:
    check_unused(option, folder)
    folders = [expand(spec).resolve() for spec in images if expand(spec).is_dir()]
    inside = any(folder.resolve().is_relative_to(other) for other in folders)
    check(not inside, f"{option} {folder}: this is inside the folder of the pictures")


def _classify(predictor: Predictor, paths: list[str], settings: Any) -> None:
    failed, empty = list[str](), list[str]()
    output = expand(settings.output) if settings.output else None
    seen, why = (expand(given) if given else None for given in (settings.save_converted, settings.explain))
    error = sys.stderr if output == STDOUT else None
    rows = classify_files(predictor, paths, seen, why, failed, empty)
    if output is None:
        width = min(40, max(map(display_width, paths)))
        for row in rows:
            for line in _lines(row, width):
                say(line)
    else:
        write_rows(rows, output)
        print_written(output, len(paths) - len(failed))
    if empty:
        say(f"note: {len(empty):,} of {len(paths):,} pictures are nothing but background and get no class", error)
    if failed:
        more = f"; and {len(failed) - 1:,} more of {len(paths):,} could not be read" if len(failed) > 1 else ""
        say(f"warning: {failed[0]}{more}", error)


def _lines(row: dict[str, Any], width: int) -> list[str]:
    """Writes the most probable classes of a picture, three if 80 columns have room, and below them what is unusual."""
    best = sorted(((value or 0, name[2:-1]) for name, value in row.items() if name.startswith("p(")), reverse=True)
    longest = max(display_width(name) for _, name in best)
    cells = [f"  {pad(name, longest)} {percent(value):>7}" for value, name in best[:3]]
    room = max(1, (80 - max(width, display_width(row["path"]))) // len(cells[0]))
    known = "".join(cells[:room]) if row["predicted"] else f"  {row['error'] or 'no class'}"
    parts = (row["note"] or "").split("; ")
    unusual = "; ".join(part for part in parts if part not in USUAL_NOTES)
    level = "warning" if UNLIKE_NOTE in parts else "note"
    return [f"{pad(row['path'], width)}{known}", *([f"  {level}: {unusual}"] if unusual else [])]


def print_written(output: Path, count: int) -> None:
    """Prints which file was written, unless that is standard output."""
    if output != STDOUT:
        say(f"written: {output} ({count:,} predictions)")
