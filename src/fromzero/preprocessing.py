"""How samples become inputs, kept beside a model: a record in JSON, and its long parts in files of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fromzero.errors import RunError
from fromzero.files import write_text
from fromzero.records import Columns, Preprocessing, Tokens, from_json, to_json

KINDS = {"image": Preprocessing, "custom": Preprocessing, "text": Tokens, "lm": Tokens, "table": Columns}


def write(folder: Path, how: Any) -> dict[str, Any]:
    """The record as JSON; fields that name a file go into that file of `folder`."""
    values = to_json(how)
    for name, file in _files(type(how)).items():
        write_text(folder / file, values.pop(name))
    return values


def read(folder: Path, task: str, values: Mapping[str, Any]) -> Any:
    """The record that `write` kept. Raises RunError where it is damaged."""
    kind = KINDS[task]
    try:
        texts = {name: (folder / file).read_text(encoding="utf-8") for name, file in _files(kind).items()}
        return from_json(kind, {**values, **texts})
    except (OSError, TypeError, ValueError) as error:
        raise RunError("run_damaged", path=folder, reason=error) from error


def _files(kind: type) -> dict[str, str]:
    return {each.name: each.metadata["file"] for each in dataclasses.fields(kind) if "file" in each.metadata}
