"""The body of ``POST /predict``: a picture as it is, a form with files, or JSON with base64."""

import base64
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import HTTPException
from pydantic import BaseModel, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field as FormField
from python_multipart.multipart import File, FormParser, parse_options_header

MAX_PICTURES, MAX_FIELDS = 16, 16
MAX_JSON, MAX_COMMAS = 8_000_000, 100  # millions of values would take seconds, in which nobody else is answered
LARGE = 3000  # bytes; a picture of this size has line ends in it, just by chance
URL_ALPHABET = bytes.maketrans(b"-_", b"+/")
FORM = "application/x-www-form-urlencoded"  # what curl says of -d and of --data-binary
CURL = "curl needs --data-binary @shoe.jpg, as -d removes line ends; for JSON, -H 'Content-Type: application/json'"


class Options(BaseModel):
    """What to answer; in the address, in a form, or as ``parameters`` in JSON."""

    top_k: Annotated[int, Field(ge=1)] | None = None
    note: bool = False
    seen: bool = False


class Inputs(BaseModel):
    """JSON as Hugging Face has it: a picture in base64, or several."""

    inputs: str | Annotated[list[str], Field(max_length=MAX_PICTURES)]
    parameters: dict[str, Any] | None = None


PICTURE = {"type": "string", "format": "binary"}
OPTIONS = Options.model_json_schema()["properties"]
FILES = {"file": {"type": "array", "items": PICTURE, "maxItems": MAX_PICTURES}}
JSON = {**Inputs.model_json_schema(), "example": {"inputs": "iVBORw0KGgo...", "parameters": {"top_k": 3}}}
SCHEMAS = {
    "image/*": PICTURE,
    "application/octet-stream": PICTURE,
    "multipart/form-data": {"type": "object", "properties": {**FILES, **OPTIONS}},
    "application/json": JSON,
}
OPENAPI = {
    "parameters": [{"in": "query", "name": name, "schema": schema} for name, schema in OPTIONS.items()],
    "requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in SCHEMAS.items()}},
}


def read_request(content_type: str, query: Mapping[str, str], body: bytes) -> tuple[list[bytes], bool, Options]:
    """Finds the pictures in a request.

    Args:
        content_type: The header; of its parameters only the boundary of a form is used.
        query: Options in the address; those in the body come before them.
        body: The body.

    Returns:
        The files; whether one answer or a list is wanted; the options.

    Raises:
        HTTPException: The body is not what its type says, or holds too much; an option is wrong.
    """
    kind, parameters = parse_options_header(content_type)
    files, single = [body], True
    options: dict[str, Any] = {}
    try:
        if kind == b"multipart/form-data":
            files, options = _read_form(body, parameters.get(b"boundary"))
            single = len(files) == 1
        elif kind == b"application/json":
            files, single, options = _read_json(body)
        elif kind == FORM.encode() and len(body) > LARGE and b"\n" not in body and b"\r" not in body:
            raise HTTPException(422, f"the picture has lost its line ends: {CURL}")
        return files, single, Options.model_validate({**query, **options})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or 'give {"inputs": a picture in base64}'
        raise HTTPException(422, f"{place}: {first['msg']}") from error


def _read_form(body: bytes, boundary: bytes | None) -> tuple[list[bytes], dict[str, Any]]:
    files: list[bytes] = []
    fields: dict[str, Any] = {}

    def add(part: FormField | File) -> None:
        if isinstance(part, File):
            part.file_object.seek(0)
            files.append(part.file_object.read())
        elif b"\0" in (part.value or b""):  # a picture without a file name
            files.append(part.value or b"")
        else:
            fields[(part.field_name or b"").decode(errors="replace")] = (part.value or b"").decode(errors="replace")
        if len(files) > MAX_PICTURES or len(fields) > MAX_FIELDS:
            raise HTTPException(422, f"a form may have {MAX_PICTURES} files")

    try:
        in_memory = {"MAX_MEMORY_FILE_SIZE": float("inf")}
        parser = FormParser("multipart/form-data", add, add, boundary=boundary, config=in_memory)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(422, f"this is not a form: {error}") from error
    if not files:
        raise HTTPException(422, "the form has no file: curl sends one by -F file=@shoe.jpg")
    return files, fields


def _read_json(body: bytes) -> tuple[list[bytes], bool, dict[str, Any]]:
    if len(body) > MAX_JSON:
        raise HTTPException(413, f"JSON may have {MAX_JSON // 1_000_000} MB: send a larger picture as it is")
    if body.count(b",") > MAX_COMMAS:
        raise HTTPException(422, f"JSON may have {MAX_COMMAS} values: inputs and parameters")
    given = Inputs.model_validate_json(body)
    texts = [given.inputs] if isinstance(given.inputs, str) else given.inputs
    return [_decode(text) for text in texts], isinstance(given.inputs, str), given.parameters or {}


def _decode(text: str) -> bytes:
    """Decodes base64, also its URL form, in lines, without padding, or in a ``data:`` address."""
    try:
        coded = (text.partition(",")[2] if text.startswith("data:") else text).encode("ascii")
        coded = coded.translate(URL_ALPHABET, b" \t\r\n").rstrip(b"=")
        return base64.b64decode(coded + b"=" * (-len(coded) % 4), validate=True)
    except ValueError as error:
        raise HTTPException(422, f"inputs must be a picture in base64: {error}") from error
