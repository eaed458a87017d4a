"""What every runtime of artifacts does first: read what the folder says of itself, and check that it is true."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromzero import preprocessing
from fromzero.errors import RunError
from fromzero.records import Columns, Preprocessing

DESCRIPTION = "artifact.json"

# How the one input of a model is called and what it is made of, by the record that says how a sample becomes one.
INPUTS = {"Preprocessing": ("pixels", "uint8"), "Tokens": ("tokens", "int64"), "Columns": ("rows", "float32")}


@dataclass(frozen=True)
class Description:
    """artifact.json, read and checked."""

    folder: Path
    format: str
    model: str
    task: str
    file: str
    labels: tuple[str, ...]
    preprocessing: Any

    @property
    def input(self) -> str:
        return INPUTS[type(self.preprocessing).__name__][0]

    @property
    def kind(self) -> np.dtype:
        return np.dtype(INPUTS[type(self.preprocessing).__name__][1])

    @property
    def output(self) -> str:
        """A language model's logits are given as they are: what is done with them is the reader's choice."""
        return "logits" if self.task == "lm" else "scores"

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of one sample, without the batch; None where any length will do."""
        how = self.preprocessing
        if isinstance(how, Preprocessing):
            return how.size, how.size, how.channels
        if isinstance(how, Columns):
            values = len(how.numbers) + len(how.flagged) + bool(how.window) + len(how.words)
            return (how.window, values) if how.window else (values,)
        return (None if self.task == "lm" else how.length,)

    def damaged(self, reason: object) -> RunError:
        return damaged(self.folder, reason)


def format_of(path: Path) -> str | None:
    """The format of an artifact folder; None for what is none, "" where the description cannot be read."""
    description = Path(path) / DESCRIPTION
    if not description.is_file():
        return None
    try:
        return str(_read(description).get("format"))
    except RunError:
        return ""


def described(path: Path) -> Description:
    """The artifact in the folder `path`. Raises RunError if a file is missing, or is not the one that was exported."""
    folder = Path(path)
    values = _read(folder / DESCRIPTION)
    try:
        task = str(values.get("task", "image"))  # artifacts of pictures did not say so at first
        sums = {str(each): str(value) for each, value in values["sha256"].items()}
        for each, expected in sums.items():
            _verify(folder, each, expected)
        if values["file"] not in sums:
            raise damaged(folder, f"{DESCRIPTION}: sha256 lacks {values['file']}")
        return Description(
            folder=folder,
            format=str(values["format"]),
            model=str(values["model"]),
            task=task,
            file=str(values["file"]),
            labels=tuple(str(each) for each in values["labels"]),
            preprocessing=preprocessing.read(folder, task, values["preprocessing"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, f"{DESCRIPTION}: {type(error).__name__} {error}") from error
    except RunError as error:
        raise damaged(folder, error.cause) if error.code == "run_damaged" else error from None


def damaged(folder: Path, reason: object) -> RunError:
    return RunError("artifact_damaged", path=folder, reason=reason)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _read(description: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(description.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError("artifact_incomplete", path=description.parent, file=description.name) from error
    except (OSError, ValueError) as error:
        raise damaged(description.parent, f"{description.name}: {error}") from error
    if not isinstance(values, dict):
        raise damaged(description.parent, f"{description.name}: not an object")
    return values


def _verify(folder: Path, file: str, expected: str) -> None:
    """The file is the one that was exported, byte for byte. Names that lead out of the folder are refused: an
    artifact may come from a stranger."""
    if Path(file).name != file:
        raise damaged(folder, f"{DESCRIPTION}: {file}")
    try:
        found = digest(folder / file)
    except FileNotFoundError as error:
        raise RunError("artifact_incomplete", path=folder, file=file) from error
    except OSError as error:
        raise damaged(folder, f"{file}: {error.strerror or error}") from error
    if found != expected.lower():
        raise RunError("artifact_changed", path=folder, file=file)
