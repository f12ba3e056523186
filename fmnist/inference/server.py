"""A trained model behind HTTP: the page, and ``POST /predict``, in one process.

Limits: 20 MB a request (413), 16 pictures in one (422), 10 seconds to send it (408), 64 requests at once (503),
50 million pixels a picture. Nothing that is sent is written to disk.
"""

import asyncio
import base64
import binascii
import hmac
import json
import os
import socket
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from fmnist.inference.page import render
from fmnist.inference.predictor import Predictor

MAX_BYTES, MAX_FILES, MAX_WAITING = 20_000_000, 16, 64
SECONDS = 10  # to send the head of a request, and again to send its body
GRACE = 4  # seconds for what is in flight when the server is stopped


class _Parser(MultiPartParser):
    """Keeps files in memory."""

    spool_max_size = MAX_BYTES + 1


class _Protocol(H11Protocol):
    """Closes a connection on which no request comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # else 40 ms are waited
        asyncio.get_running_loop().call_later(SECONDS, self._close_unused, transport)

    def _close_unused(self, transport: asyncio.Transport) -> None:
        cycle: Any = self.cycle
        if cycle is None:
            transport.close()


class Server(uvicorn.Server):
    """Ends at once when it is told to for the second time."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Takes SIGTERM or Ctrl-C."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)


def make_server(predictor: Predictor, origin: str, token: str | None = None) -> Server:
    """Makes a server that is ready to run.

    Args:
        predictor: The model.
        origin: What the page says of it.
        token: What ``POST /predict`` asks for as ``Authorization: Bearer TOKEN``; nothing if not given.
    """
    app = make_app(predictor, origin, token)
    config = uvicorn.Config(app, http=_Protocol, log_level="error", timeout_graceful_shutdown=GRACE, lifespan="off")
    return Server(config)


def make_app(predictor: Predictor, origin: str, token: str | None = None) -> FastAPI:
    """Makes the application; see ``make_server``."""
    app = FastAPI(title="fmnist", docs_url=None, redoc_url=None)  # these load scripts from elsewhere
    desk = _Desk(predictor, token)
    page = render({"origin": origin, "classes": list(predictor.class_names), "examples": ""})

    @app.get("/", response_class=HTMLResponse)
    async def show() -> str:
        """The page."""
        return page

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tells that the model is loaded."""
        return {"status": "ok"}

    app.add_api_route("/predict", desk.predict, methods=["POST"])
    return app


class _Desk:
    """Answers requests for predictions.

    Args:
        predictor: The model.
        token: What is asked for, if anything.
    """

    def __init__(self, predictor: Predictor, token: str | None) -> None:
        self.predictor = predictor
        self.token = token
        self.busy = 0
        self.threads = anyio.CapacityLimiter(os.cpu_count() or 1)

    async def predict(
        self, request: Request, top_k: int | None = None, note: bool = False, seen: bool = False
    ) -> JSONResponse:
        """Classifies a picture, or several: a raw body, multipart files, or JSON with ``inputs`` as base64."""
        given, asked = request.headers.get("authorization", ""), f"Bearer {self.token}"
        if self.token and not hmac.compare_digest(given.encode(), asked.encode()):
            raise HTTPException(401, "give the token, as Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        if self.busy >= MAX_WAITING:
            raise HTTPException(503, "too many requests at once: try again", {"Retry-After": "1"})
        self.busy += 1
        try:
            files, single, wanted = await _read(request)
            work = partial(_classify, self.predictor, files, wanted or top_k, note, seen)
            answers = await anyio.to_thread.run_sync(work, limiter=self.threads)
        finally:
            self.busy -= 1
        return JSONResponse(answers[0] if single else answers)


async def _body(request: Request) -> AsyncGenerator[bytes, None]:
    """Yields the body, no more than is allowed, while it comes."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BYTES:
            raise HTTPException(413, f"a request may have {MAX_BYTES // 1_000_000} MB")
        yield part


async def _read(request: Request) -> tuple[list[bytes], bool, int | None]:
    """Returns the files of a request, whether it is a single one, and how many classes are asked for."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(SECONDS):
            if kind == "multipart/form-data":
                form = await _Parser(request.headers, _body(request), max_files=MAX_FILES, max_fields=MAX_FILES).parse()
                files = [await value.read() for _, value in form.multi_items() if not isinstance(value, str)]
                if not files:
                    raise HTTPException(422, "the form has no file")
                return files, len(files) == 1, None
            content = b"".join([part async for part in _body(request)])
    except TimeoutError:
        raise HTTPException(408, f"a request must be sent within {SECONDS} seconds") from None
    except ClientDisconnect:  # else the server would print where it was; nobody reads the answer
        raise HTTPException(499, "the sender has left") from None
    except (MultiPartException, KeyError) as error:
        raise HTTPException(422, f"this is not a form: {error}") from error
    if kind != "application/json":
        return [content], True, None
    try:
        asked = json.loads(content)
        top_k = (asked.get("parameters") or {}).get("top_k")
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise HTTPException(422, "top_k must be a whole number, at least 1")
        return (
            [base64.b64decode(asked["inputs"].partition("base64,")[2] or asked["inputs"], validate=True)],
            True,
            top_k,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise HTTPException(422, 'give {"inputs": a picture in base64, "parameters": {"top_k": 3}}') from error


def _classify(predictor: Predictor, files: list[bytes], top_k: int | None, note: bool, seen: bool) -> list[Any]:
    """Classifies pictures; classes are written as Hugging Face does."""
    answers: list[Any] = []
    for file in files:
        try:
            converted = predictor.read_bytes(file)
        except ValueError as error:
            raise HTTPException(415 if "not a picture" in str(error) else 422, f"the picture {error}") from error
        prediction = predictor.classify_converted(converted)
        best = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:top_k]
        answer = [{"label": name, "score": probability} for name, probability in best]
        shown = {"seen": base64.b64encode(converted.image.numpy().tobytes()).decode()} if seen else {}
        more = {"note": prediction.note, "typicality": prediction.typicality, **shown}
        answers.append({"predictions": answer, **more} if note or seen else answer)
    return answers
