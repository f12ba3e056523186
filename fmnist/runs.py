"""Run folders, ``lightning_logs/version_N``: claim a new one, find the newest and its checkpoints."""

import re
from pathlib import Path

from fmnist.errors import UserError

LOGS = "lightning_logs"


def claim(root: Path) -> Path:
    """Makes the next free run folder; two processes never get the same one.

    Args:
        root: Folder that holds ``lightning_logs``.

    Returns:
        ``root/lightning_logs/version_N``, N one above the highest there is.
    """
    logs = root / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    while True:
        version = max(_versions(logs), default=-1) + 1
        try:
            (logs / f"version_{version}").mkdir()
        except FileExistsError:
            continue  # another process was faster
        return logs / f"version_{version}"


def find_checkpoint(spec: str | None, root: Path) -> Path:
    """Finds the checkpoint that ``--ckpt_path`` means.

    Args:
        spec: A path; or ``best`` or ``last`` of the newest run that has one; None means ``best``.
        root: Folder that holds ``lightning_logs``.

    Raises:
        UserError: There is no such checkpoint.
    """
    if spec not in (None, "best", "last"):
        path = Path(spec).expanduser()
        if not path.is_file():
            raise UserError(f"--ckpt_path {spec}: there is no such file; {_available(root)}")
        return path
    name = f"{spec or 'best'}.ckpt"
    for version in sorted(_versions(root / LOGS), reverse=True):
        path = root / LOGS / f"version_{version}" / "checkpoints" / name
        if path.is_file():
            return path
    raise UserError(
        f"no trained model in {root / LOGS}: run 'python -m fmnist fit --config configs/mlp.yaml' first, "
        f"or name a checkpoint with --ckpt_path FILE"
    )


def run_folder(checkpoint: Path) -> Path | None:
    """Returns the run folder that a checkpoint lies in; None if it lies elsewhere."""
    inside = checkpoint.parent.name == "checkpoints" and (checkpoint.parent.parent / "config.yaml").is_file()
    return checkpoint.parent.parent if inside else None


def _versions(logs: Path) -> list[int]:
    found = (re.fullmatch(r"version_(\d+)", path.name) for path in logs.glob("version_*"))
    return [int(match[1]) for match in found if match]


def _available(root: Path) -> str:
    try:
        return f"the newest run's is {find_checkpoint(None, root)}"
    except UserError as error:
        return str(error)
