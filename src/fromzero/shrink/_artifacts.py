"""What the ways that change an exported model have in common: an artifact made from another artifact."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fromzero import tasks
from fromzero.errors import MissingPackage
from fromzero.files import write_json
from fromzero.runs import Run
from fromzero.runtimes._artifact import DESCRIPTION, digest
from fromzero.training import data_of


def about(artifact: Path) -> dict[str, Any]:
    """What an artifact says of itself."""
    return json.loads((artifact / DESCRIPTION).read_text(encoding="utf-8"))


def model_file(artifact: Path) -> Path:
    return artifact / about(artifact)["file"]


def derived(source: Path, folder: Path, model: Any, quantised: str) -> None:
    """An artifact in `folder` as the one at `source`, with another ONNX model. Written beside and renamed; what the
    source proved of itself does not hold for it."""
    import onnx

    beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source, beside)
    described = about(source)
    path = beside / described["file"]
    onnx.save(model, path)
    described["sha256"][described["file"]] = digest(path)
    described.pop("parity", None)
    write_json(beside / DESCRIPTION, {**described, "quantised": quantised})
    os.replace(beside, folder)


def samples(run: Path, part: str, most: int) -> np.ndarray:
    """Up to `most` real samples of a part of a run's data, as they are loaded, spread over it."""
    found = Run(run)
    held = tasks.trained(found.plan().workload.task).samples(data_of(found), found.preprocessing())
    rows = held.rows(part)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]
    return held.batch([(int(row), 0) for row in rows])[0]


def quantisation() -> Any:
    """ONNX Runtime's tools, or the word to install what they need."""
    try:
        import onnx  # noqa: F401
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingPackage(error.name or "onnxruntime", "shrink") from error
    return quantization


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The tools tell the root logger what they recommend, and set it up for the rest of the process: not here."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
