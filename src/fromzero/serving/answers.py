"""What is said to a client, in its language: answers, refusals, and which language that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from fromzero import language as speech
from fromzero.errors import FromzeroError
from fromzero.predicting import ranked
from fromzero.serving import openapi

TOP = 5


def predictions(labels: Sequence[str], scores: np.ndarray) -> list[dict[str, Any]]:
    """The best classes, most probable first."""
    return [vars(each) for each in ranked(labels, scores, TOP)]


def refusal(status: int, error: FromzeroError, spoken: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as JSON {code, message}. Where trying again helps, `retry-after` says when."""
    more = dict(headers or {})
    if status in (429, 503):
        more["retry-after"] = str(max(1, math.ceil(float(str(error.values.get("seconds", 1))))))
    if status in (408, 413):  # the rest of the upload may still be on its way: this connection is spoilt
        more["connection"] = "close"
    return JSONResponse(explained(error, spoken), status, headers=more)


def status_of(error: FromzeroError) -> int | None:
    """The status that the API promises for an error; None for one that no request can cause."""
    known = openapi.STATUS.get(error.code)
    return 422 if known is None and error.code in openapi.SAMPLE_CODES else known


def explained(error: FromzeroError, spoken: str) -> dict[str, str]:
    """Code, and cause and fix in the client's language: the error itself speaks the server's."""
    rows, column = speech.catalogue(), speech.LANGUAGES.index(spoken)
    keys = (f"error.{error.code}", f"error.{error.code}.fix")
    texts = [rows[key][column].format(**error.values).strip() for key in keys]
    return {"code": error.code, "message": (" " if spoken == "en" else "").join(each for each in texts if each)}


def word(key: str, spoken: str) -> str:
    """A sentence of the catalogue in the client's language."""
    return speech.catalogue()[key][speech.LANGUAGES.index(spoken)]


def spoken_to(scope: Scope, headers: Mapping[bytes, bytes], usual: str | None) -> str:
    """The language to answer in: `?lang=`, else the browser's, else the service's."""
    if scope.get("query_string"):
        asked = QueryParams(scope["query_string"]).get("lang")
        if asked in speech.LANGUAGES:
            return str(asked)
    return accepted(headers.get(b"accept-language", b"").decode("latin-1")) or usual or speech.current()


def accepted(header: str) -> str | None:
    """The first of our languages in an Accept-Language header by its weights; None if there is none."""
    if not header:
        return None
    weighted = []
    for position, each in enumerate(header.split(",")[:32]):
        tag, _, parameters = each.strip().partition(";")
        weight = parameters.strip().removeprefix("q=")
        try:
            weighted.append((-float(weight or 1), position, tag.strip().lower().split("-")[0]))
        except ValueError:
            continue
    return next((tag for weight, _, tag in sorted(weighted) if weight < 0 and tag in speech.LANGUAGES), None)
