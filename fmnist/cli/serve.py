"""Serve a trained model: a web page, and an address to send pictures to."""

import errno
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Sequence

import torch

from fmnist.cli.console import quiet, say
from fmnist.cli.export import describe_origin
from fmnist.cli.options import PlainParser, add_checkpoint_arguments, add_transform
from fmnist.cli.resolve import find_start
from fmnist.errors import UserError, check
from fmnist.inference.predictor import Predictor
from fmnist.names import check_installed
from fmnist.runs.checkpoint import load_model

EXAMPLE = "fmnist serve --port 8000"
NEEDED = ("fastapi", "uvicorn", "python_multipart")
LOCAL = ("localhost", "127.0.0.1", "[::1]")
HOST = re.compile(r"\*|(\*\.)?[\w.-]+|\[[\da-f:.]+\]", re.IGNORECASE)
ORIGIN = re.compile(r"\*|null|\w+://[^/\s]+")


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``serve``, with its one-line description and its arguments."""
    parser = PlainParser("serve", description, EXAMPLE)
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (127.0.0.1: only this machine).")
    parser.add_argument("--port", type=int, default=8000, help="Port (8000); 0 takes a free one and prints it.")
    parser.add_argument("--token", help="Require this token for /predict (default: $FMNIST_TOKEN; none if unset).")
    parser.add_argument(
        "--allowed_host", nargs="+", default=[], metavar="NAME", help="Name of this server behind a tunnel or a proxy."
    )
    parser.add_argument(
        "--allowed_origin", nargs="+", default=[], metavar="URL", help="Web site whose pages may use /predict."
    )
    add_checkpoint_arguments(parser)
    add_transform(parser)
    options = parser.parse_args([*argv])
    check_installed("serve", NEEDED, "serve")
    check(0 <= options.port < 1 << 16, f"--port {options.port}: give a number from 0 to 65535")
    for name in options.allowed_host:
        check(
            HOST.fullmatch(name) is not None, f"--allowed_host {name}: give a name such as example.org, without a port"
        )
    for url in options.allowed_origin:
        check(ORIGIN.fullmatch(url) is not None, f"--allowed_origin {url}: give one such as https://example.org")
    token = _read_token(options.token)
    start = find_start("serve", [*argv])
    model = load_model(start.path, start.checkpoint, start.network)
    predictor = Predictor(model, start.checkpoint["conversion"], start.transform)
    predictor.check_transform()
    quiet()
    from fmnist.inference.server import make_server

    listener = _listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    local = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    host = f"[{host}]" if ":" in host else host
    if not token and not local:
        print("warning: other machines can reach this server without a token; set one with --token", file=sys.stderr)
    hosts = [*LOCAL, host, *options.allowed_host] if local or options.allowed_host else []
    server = make_server(predictor, describe_origin(start.path), token, hosts, options.allowed_origin)
    torch.set_num_threads(1)  # requests are answered in several threads
    say(f"serve: {start.path} on http://{host}:{port}")
    server.run(sockets=[listener])


def _read_token(option: str | None) -> str | None:
    name, token = ("FMNIST_TOKEN", os.environ.get("FMNIST_TOKEN")) if option is None else ("--token", option)
    if token is None:
        return None
    token = token.strip()  # a mounted secret may end with a line end
    check(bool(token), f"{name} is empty: give a token, or leave it out")
    check(
        re.fullmatch(r"[!#-;=?-_a-~]+", token) is not None,  # browsers write the others in another way in an address
        f"{name}: use ASCII letters, digits and punctuation, without spaces, quotes, < or >",
    )
    return token


def _listen(host: str, port: int) -> socket.socket:
    """Opens the socket; ``::`` is for IPv4 as well."""
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: there is no such host; give an address of this machine") from error
    try:
        both = address[0] == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(address, family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        other = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise UserError(
            f"--host {host} --port {port}: {os.strerror(error.errno or 0)}; give another {other}"
        ) from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it; else 40 ms are waited
    return listener
