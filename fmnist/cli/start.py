"""What a verb begins with."""

import argparse
import os
from pathlib import Path

from fmnist.errors import UserError, check
from fmnist.runs import folder as runs
from fmnist.runs.settings import class_names, read_settings

RESOLVED = "FMNIST_RESOLVED_CHECKPOINT"  # tells the processes that Lightning starts what the first one chose


def _scan(words: list[str]) -> argparse.Namespace:
    """Finds the few settings that must be known before the words can be parsed."""
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scanner.add_argument("--ckpt_path")
    scanner.add_argument("--images")
    scanner.add_argument("--trainer.default_root_dir", dest="default_root_dir")
    scanner.add_argument("-c", "--config", action="append", default=[])
    try:
        typed = scanner.parse_known_args(words)[0]
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    typed.named = {*words}  # the classes that the user names, and therefore trusts
    for config in typed.config:
        try:
            settings = read_settings(Path(config))
        except OSError:
            continue  # the real parser complains
        except ValueError as error:
            raise UserError(f"{config} is not a configuration: {str(error)[:200]}") from error
        typed.named |= {*class_names(settings)}
        check(not settings.get("ckpt_path"), f"{config}: ckpt_path belongs on the command line, as --ckpt_path")
        trainer = settings.get("trainer")
        root = trainer.get("default_root_dir") if isinstance(trainer, dict) else None
        if isinstance(root, str):  # the real parser complains of anything else
            typed.default_root_dir = typed.default_root_dir or root
    return typed


def _resolve(spec: str | None, root: Path, to_continue: bool) -> Path:
    """Finds the checkpoint once for all processes of this command."""
    if "LOCAL_RANK" in os.environ and RESOLVED in os.environ:
        return Path(os.environ[RESOLVED])
    path = runs.find_checkpoint(spec, root, to_continue)
    os.environ[RESOLVED] = str(path)
    return path
