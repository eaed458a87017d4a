"""Runs a TFLite artifact with LiteRT's interpreter. Imports no torch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.errors import MissingPackage, UnknownName, UsageError
from fromzero.machine.process import usable_cores
from fromzero.runtimes._artifact import Description, described, format_of

DEVICES = ("auto", "cpu", "cuda")


class LiteClassifier:
    """A Classifier over an interpreter, which holds one sample at a time: callers take turns."""

    device = "cpu"

    def __init__(self, about: Description, interpreter: Any) -> None:
        self.name, self.labels, self.task = about.model, about.labels, about.task
        self.preprocessing = about.preprocessing
        self._interpreter, self._lock = interpreter, threading.Lock()
        (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
        self._given, self._kind, self._answer = given["index"], given["dtype"], answer["index"]

    def scores(self, batch: np.ndarray) -> np.ndarray:
        found = np.empty((len(batch), len(self.labels)), np.float32)
        with self._lock:
            for place, sample in enumerate(batch.astype(self._kind, copy=False)):
                self._interpreter.set_tensor(self._given, sample[None])
                self._interpreter.invoke()
                found[place] = self._interpreter.get_tensor(self._answer)[0]
        return found


def opens(path: Path) -> bool:
    return format_of(path) == "tflite"


def open_model(path: Path, device: str = "auto", threads: int | None = None) -> LiteClassifier:
    """The classifier in the artifact folder, on the CPU. Raises RunError for a file that is missing, was changed, or
    is no such model, and MissingPackage without ai-edge-litert."""
    if device not in DEVICES:
        raise UnknownName("device", device, DEVICES)
    if device == "cuda":
        raise UsageError("no_provider", device=device, known="cpu")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingPackage("ai-edge-litert", "tflite") from error
    about = described(path)
    try:
        interpreter = Interpreter(model_path=str(about.folder / about.file), num_threads=threads or usable_cores())
        interpreter.allocate_tensors()
        shapes = [tuple(each["shape"]) for each in interpreter.get_input_details()]
        answers = [tuple(each["shape"]) for each in interpreter.get_output_details()]
    except (ValueError, RuntimeError) as error:
        raise about.damaged(f"{about.file}: {error}") from error
    if shapes != [(1, *about.shape)] or answers != [(1, len(about.labels))]:
        raise about.damaged(f"inputs {shapes}, outputs {answers}, {len(about.labels)} labels")
    return LiteClassifier(about, interpreter)
