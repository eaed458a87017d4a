"""From the body of a request to the samples in it: pictures from a form, texts and rows from JSON.

Belongs on a worker thread from end to end: the client chooses how much work a body makes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fromzero.data import images
from fromzero.data.inputs import prepared
from fromzero.errors import DataError, FromzeroError, UsageError
from fromzero.runtimes import Classifier
from fromzero.serving import uploads

JSON = "application/json"
MAX_SAMPLES = 256  # texts or rows of one request
FIELDS = {"text": ("text", "texts"), "table": ("row", "rows")}  # task -> one sample, several


@dataclass(frozen=True)
class Samples:
    """What was sent, with what to call each; `many`: the client asked for a list and gets one."""

    names: list[str]
    given: list[Any]
    many: bool


def content_type(task: str) -> str:
    """What a model of this task takes."""
    return JSON if task in FIELDS else uploads.FORM


@dataclass
class Reading:
    """One request on its way: called on a worker, it gives an array or an error for each sample and leaves `samples`
    for the answer. `unnamed` is what to call a picture without a name."""

    classifier: Classifier
    content_type: str
    body: bytes
    unnamed: str
    samples: Samples | None = None

    def __call__(self) -> list[np.ndarray | FromzeroError]:
        """Raises UsageError for a body that is no request."""
        task = self.classifier.task
        self.samples = _rows(task, self.body) if task in FIELDS else _pictures(self.content_type, self.body)
        how = self.classifier.preprocessing
        return [_input(each, how, name or self.unnamed) for name, each in zip(*self._pairs(), strict=True)]

    def _pairs(self) -> tuple[list[str], list[Any]]:
        assert self.samples is not None
        return self.samples.names, self.samples.given


def _pictures(content_type: str, body: bytes) -> Samples:
    files = uploads.files(content_type, body)
    return Samples([each.name for each in files], [each.content for each in files], len(files) > 1)


def _rows(task: str, body: bytes) -> Samples:
    one, several = FIELDS[task]
    value = _parsed(body)
    if not isinstance(value, dict) or len(value) != 1 or not {one, several} & set(value):
        raise UsageError("json_unexpected", one=one, several=several)
    if one in value:
        return Samples([""], [value[one]], False)
    given = value[several]
    if not isinstance(given, list) or not given:
        raise UsageError("json_unexpected", one=one, several=several)
    if len(given) > MAX_SAMPLES:
        raise UsageError("samples_too_many", limit=MAX_SAMPLES)
    return Samples([str(number) for number in range(len(given))], given, True)


def _parsed(body: bytes) -> Any:
    """JSON as its standard has it: no NaN, no half of a surrogate pair, not nested without end."""
    try:
        value = json.loads(body.decode(), parse_constant=_no_number)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise UsageError("json_malformed") from error


def _no_number(word: str) -> float:
    raise ValueError(word)


def _input(given: Any, how: Any, name: str) -> np.ndarray | FromzeroError:
    """One sample as the model takes it, or what is wrong with it."""
    kind = type(how).__name__
    try:
        if kind == "Preprocessing":
            return images.prepared(given, how, name)
        if kind == "Columns" and not _is_row(given):
            raise UsageError("no_row", kind=type(given).__name__)
        return prepared(given, how)
    except (DataError, UsageError) as error:
        return error
    except (OverflowError, RecursionError):  # an integer beyond every float, lists in lists in a cell
        return UsageError("value_unusable")


def _is_row(given: Any) -> bool:
    """A row as an object, or the rows of a sequence."""
    if isinstance(given, Mapping):
        return True
    return isinstance(given, list) and bool(given) and all(isinstance(each, Mapping) for each in given)
