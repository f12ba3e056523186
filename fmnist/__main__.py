"""Entry point: ``python -m fmnist COMMAND`` and the console script ``fmnist``.

It picks the command before anything heavy is imported, and turns errors into exit codes: 0 done,
2 the user can fix it, 130 Ctrl-C, 143 SIGTERM. ``FMNIST_DEBUG=1`` shows tracebacks.
"""

import os
import sys

if __name__ == "__main__" and sys.path[0] == os.getcwd():  # noqa: PTH109 - nothing that lies there is imported yet
    del sys.path[0]  # `python -m` puts the current folder first, where a file could take the place of any module

import difflib
import io
import signal
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from fmnist import __version__
from fmnist.errors import SetupError, UserError
from fmnist.text import plain

# Each command with its file in cli/ and what it does
COMMANDS = {
    "fit": ("command", "train a model, or continue a run"),
    "validate": ("command", "evaluate a trained model on the validation images"),
    "test": ("command", "evaluate a trained model on the official test images"),
    "predict": ("command", "classify your pictures, or the test images"),
    "prepare": ("prepare", "fetch and verify the data, and describe it"),
    "export": ("export", "export a trained model as ONNX, safetensors or a web page"),
    "serve": ("serve", "serve a trained model: web page and HTTP API"),
    "sweep": ("sweep", "run a hyperparameter search from one file; resumable"),
    "audit": ("audit", "find labels that look wrong, using a cross-validation sweep"),
    "compare": ("compare", "show all runs in one table"),
}


def main(argv: Sequence[str] | None = None, setup_code: int = 2) -> int:
    """Runs one command.

    Args:
        argv: Arguments; those of the process if not given.
        setup_code: Exit code of a ``SetupError``, by which a sweep knows it.

    Returns:
        The exit code.
    """
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - None where it has been closed
    sys.stderr = sys.stderr or sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that cannot show a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("MPLBACKEND", "").startswith("module:"):  # of a notebook that started this command
        del os.environ["MPLBACKEND"]
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _complain(str(error), setup_code if isinstance(error, SetupError) else 2)
    except BrokenPipeError:  # the reader of the output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else ""
        what = f"{name.removeprefix('./') or 'reading or writing failed'}: {error.strerror or error}"
        return _complain(what, setup_code)
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        return _exit_code(error)


def _run(argv: list[str]) -> int:
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help"):
        print(_help())
    elif command == "--version":
        print(f"fmnist {__version__}")
    elif command in COMMANDS:
        file, description = COMMANDS[command]
        if threading.current_thread() is threading.main_thread():
            if command != "fit":
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # cleans up; `fit` is stopped by Lightning
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not so under nohup
                signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        if file != "command":
            import_module(f"fmnist.cli.{file}").run(description, rest)
        elif not (command == "predict" and _predict_pictures(description, rest)):
            import_module("fmnist.cli.command").run(command, description, rest)
    else:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{command}': {hint}")
    return 0


def _predict_pictures(description: str, argv: list[str]) -> bool:
    """Classifies pictures, if there are some: without Lightning, whose import takes seconds."""
    asks_for_help = {"-h", "--help"} & {*argv}  # of which the trainer's has all options
    if asks_for_help or not any(argument.startswith("--images") for argument in argv):
        return False
    import_module("fmnist.cli.predict").run(description, argv)
    return True


def _help() -> str:
    commands = "\n".join(f"  {command:10}{text}" for command, (_, text) in COMMANDS.items())
    return f"""usage: fmnist COMMAND [options]

Trains and uses an image classifier for Fashion-MNIST, or for your own pictures.

commands:
{commands}

'fmnist COMMAND --help' shows the options of a command. Start with:
  fmnist fit --config mlp.yaml"""


def _complain(message: str, code: int) -> int:
    if os.environ.get("FMNIST_DEBUG"):
        raise
    print(f"fmnist: error: {plain(' '.join(message.split()))}", file=sys.stderr)
    return code


def _exit_code(error: SystemExit) -> int:
    if type(error).__name__ == "SIGTERMException":  # Lightning's; named here without importing it
        return 143
    if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
        return 130
    return error.code if isinstance(error.code, int) else int(error.code is not None)


if __name__ == "__main__":
    sys.exit(main())
