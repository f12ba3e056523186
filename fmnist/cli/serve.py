"""Serve a trained model: a page, and an address to send pictures to."""

import os
import socket
import sys
from collections.abc import Sequence

from fmnist.cli.export import describe_origin
from fmnist.cli.plain import PlainParser, add_checkpoint_arguments, add_transform
from fmnist.cli.screen import quiet, say
from fmnist.cli.start import find_start
from fmnist.errors import UserError, check
from fmnist.inference.predictor import Predictor
from fmnist.names import check_installed
from fmnist.runs.checkpoint import load_model

EXAMPLE = "fmnist serve --port 8000"
NEEDED = ("fastapi", "uvicorn", "python_multipart")


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``serve``, described in a few words, with what was typed after it."""
    parser = PlainParser("serve", description, EXAMPLE)
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (127.0.0.1: this machine alone).")
    parser.add_argument("--port", type=int, default=8000, help="Port (8000); 0 takes a free one and names it.")
    parser.add_argument("--token", help="What /predict asks for; else FMNIST_TOKEN, else nothing.")
    add_checkpoint_arguments(parser)
    add_transform(parser)
    options = parser.parse_args([*argv])
    check_installed("serve", NEEDED, "serve")
    check(0 <= options.port < 1 << 16, f"--port {options.port}: give a number from 0 to 65535")
    token = options.token or os.environ.get("FMNIST_TOKEN")
    start = find_start("serve", [*argv])
    predictor = Predictor(
        load_model(start.path, start.checkpoint, start.network), start.checkpoint.get("conversion"), start.transform
    )
    predictor.check_transform()
    quiet()
    from fmnist.inference.server import make_server

    server = make_server(predictor, describe_origin(start.path), token)
    listener = _listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    if not token and not (host.startswith("127.") or host == "::1"):
        print("notice: other machines can reach this, and no --token is asked for", file=sys.stderr)
    say(f"serve: {start.path} on http://{f'[{host}]' if ':' in host else host}:{port}")
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}; give another --port") from error
