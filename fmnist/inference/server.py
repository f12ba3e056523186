"""A trained model behind HTTP: the page, and ``POST /predict``, for this machine or a trusted network.

Limits: 20 MB a request, 8 MB of JSON (413); 16 pictures a request (422); 10 seconds to send it (408); 64 requests and
256 MB at once (503). Nothing that is sent is written to disk. Connections on which no request is completed are not
limited: that is the work of a proxy.
"""

import asyncio
import base64
import hmac
import json
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response, Security
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from PIL import UnidentifiedImageError
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from fmnist.data.photos import Converted, PictureError
from fmnist.inference.page import render
from fmnist.inference.predictor import Prediction, Predictor
from fmnist.inference.request import CURL, FORM, OPENAPI, Options, read_request

MAX_BYTES, MAX_HELD, MAX_WAITING = 20_000_000, 256_000_000, 64
MAX_READ = 100_000_000  # bytes; what is refused is read up to here, or its sender could not read the answer
SMALL = 256_000  # bytes of a request that are accepted even if others have MAX_HELD
SECONDS, GRACE = 10, 4.5  # to send a request; to answer those in flight when the server is stopped
HEADERS = [("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY")]
BEARER = HTTPBearer(auto_error=False, description="If the server was started with a token.")


class Server(uvicorn.Server):
    """Ends ``GRACE`` seconds after a signal, whatever a thread does, and at once after a second one."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Handles SIGTERM and Ctrl-C."""
        if self.should_exit:
            os._exit(128 + sig)
        end = threading.Timer(GRACE, os._exit, [128 + sig])  # a thread that decodes a picture cannot be stopped
        end.daemon = True
        end.start()
        super().handle_exit(sig, frame)


def make_server(
    predictor: Predictor,
    origin: dict[str, Any],
    token: str | None = None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> Server:
    """Makes a server that is ready to run.

    Args:
        predictor: The model.
        origin: For the footer of the page, what ``describe_origin`` returned.
        token: What ``POST /predict`` needs as ``Authorization: Bearer TOKEN``; nothing if not given.
        hosts: Names by which the server may be addressed, such as ``*.example.org``; any if not given.
        origins: Other origins whose pages may use it, such as ``https://example.org``, or ``*``.
    """
    app = FastAPI(title="fmnist", docs_url=None, redoc_url=None, max_body_size=MAX_READ)  # docs would load scripts
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["POST"], allow_headers=["*"])
    shape = list(predictor.image_shape)
    page = render({"origin": origin, "classes": list(predictor.class_names), "examples": "", "shape": shape})

    async def show(_: Request) -> Response:
        return HTMLResponse(page)

    async def health() -> dict[str, str]:
        """Answers as soon as the model is loaded."""
        return {"status": "ok"}

    predict = _Service(predictor, token, origins).predict
    app.add_route("/", show, include_in_schema=False)
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/predict", predict, methods=["POST"], openapi_extra=OPENAPI)
    logging.getLogger("asyncio").addFilter(_make_filter())
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # warns of every odd form
    config = uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", headers=HEADERS, log_level="error", access_log=False
    )
    return Server(config)


def _make_filter() -> Any:
    """Lets each message through once: without free file descriptors asyncio repeats one 2,000 times a second."""
    known: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        line = record.getMessage().partition("\n")[0]
        new = line not in known
        known.add(line)
        return new

    return is_new


class _Service:
    def __init__(self, predictor: Predictor, token: str | None, origins: Sequence[str]) -> None:
        self.predictor = predictor
        self.token = token
        self.origins = {*origins}
        self.waiting = 0  # requests whose body is there
        self.held = 0  # bytes of bodies
        self.threads = ThreadPoolExecutor(os.cpu_count())

    async def predict(
        self,
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)],
    ) -> Response:
        """Classifies a picture, or several: as the body, as files of a form, or in JSON as ``inputs`` in base64."""
        body = bytearray()
        try:
            await self._receive(request, body, self._find_refusal(request, credentials))
            self.waiting += 1
            try:
                content_type, query = request.headers.get("content-type", ""), dict(request.query_params)
                run = asyncio.get_running_loop().run_in_executor
                answer = await run(self.threads, self._answer, content_type, query, body)
            finally:
                self.waiting -= 1
        finally:
            self.held -= len(body)
        return Response(answer, media_type="application/json")

    def _find_refusal(self, request: Request, credentials: HTTPAuthorizationCredentials | None) -> HTTPException | None:
        headers = request.headers
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        same = site in ("same-origin", "none") if site else not origin or urlsplit(origin).netloc == headers.get("host")
        if not same and not {"*", origin} & self.origins:
            return HTTPException(403, f"pages of {origin} are refused: start the server with --allowed_origin {origin}")
        given = credentials.credentials if credentials else ""
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            return HTTPException(401, "give the token, as Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        return None

    async def _receive(self, request: Request, body: bytearray, refusal: HTTPException | None) -> None:
        """Collects a body; raises the refusal when all has been read."""
        size, busy = 0, HTTPException(503, "too many requests at once: try again", {"Retry-After": "1"})
        try:
            async with asyncio.timeout(SECONDS):
                async for part in request.stream():
                    size += len(part)
                    if size > MAX_BYTES:
                        refusal = refusal or HTTPException(413, f"a request may have {MAX_BYTES // 1_000_000} MB")
                    elif size > SMALL and self.held > MAX_HELD:
                        refusal = refusal or busy
                    if refusal:
                        self.held -= len(body)
                        body.clear()
                    else:
                        self.held += len(part)
                        body += part
        except TimeoutError:
            refusal = refusal or HTTPException(408, f"a request must be sent within {SECONDS} seconds")
        except ClientDisconnect:  # nobody reads the answer
            refusal = HTTPException(499)
        if self.waiting >= MAX_WAITING:
            refusal = refusal or busy
        if refusal:
            raise refusal

    def _answer(self, content_type: str, query: dict[str, str], body: bytearray) -> bytes:
        """Answers a request, in a thread."""
        pictures, single, options = read_request(content_type, query, bytes(body))
        try:
            converted = [self.predictor.convert(picture) for picture in pictures]
        except PictureError as error:
            code = 415 if isinstance(error.__cause__, UnidentifiedImageError) else 422
            hint = f"; {CURL}" if FORM in content_type else ""
            raise HTTPException(code, f"the picture {error}{hint}") from error
        # one by one: in a batch the probabilities would differ in their last digits
        predictions = [cast(Prediction, self.predictor.classify(one)) for one in converted]
        answers = [_write(*row, options) for row in zip(predictions, converted, strict=True)]
        return json.dumps(answers[0] if single else answers).encode()


def _write(prediction: Prediction, converted: Converted, options: Options) -> Any:
    """Writes a prediction as Hugging Face does."""
    best = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[: options.top_k]
    classes = [{"label": name, "score": probability} for name, probability in best]
    if not options.note and not options.seen:
        return classes
    answer = {"predictions": classes, "note": prediction.note, "typicality": prediction.typicality}
    seen = {"seen": base64.b64encode(converted.image.numpy().tobytes()).decode()} if options.seen else {}
    return answer | seen
