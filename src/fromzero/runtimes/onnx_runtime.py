"""Runs an exported ONNX artifact with ONNX Runtime. Imports no torch.

The model has one input - `pixels`, `tokens` or `rows` - which takes what `data.inputs.prepared` makes as it is:
normalisation is inside the graph. Its output is `scores`, or `logits` of a language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.errors import FromzeroError
from fromzero.runtimes._artifact import DESCRIPTION as DESCRIPTION
from fromzero.runtimes._artifact import Description, described, format_of
from fromzero.runtimes._sessions import DEVICES, session

TENSORS = {"uint8": "tensor(uint8)", "int64": "tensor(int64)", "float32": "tensor(float)"}


@dataclass(frozen=True)
class OnnxClassifier:
    """A Classifier whose answers come from an ONNX Runtime session, which may be run from several threads."""

    name: str
    labels: tuple[str, ...]
    preprocessing: Any
    session: Any
    task: str = "image"
    input: str = "pixels"

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda" or "tensorrt"."""
        return DEVICES[self.session.get_providers()[0]]

    def scores(self, batch: np.ndarray) -> np.ndarray:
        if self.task == "lm":
            return _softmax(self.logits(batch))
        return self.session.run(["scores"], {self.input: batch})[0]

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Of a language model: int64 (N, length) -> float32 (N, length, vocabulary), of the token after each."""
        return self.session.run(["logits"], {self.input: batch})[0]


def opens(path: Path) -> bool:
    """Whether `path` is an artifact folder for this runtime. A damaged description counts: `open_model` says what is
    wrong with it, which helps more than "not an artifact"."""
    return format_of(path) in ("onnx", "")


def open_model(path: Path, device: str = "auto", threads: int | None = None) -> OnnxClassifier:
    """The classifier in the artifact folder `path`.

    Raises RunError if a file is missing, is not the one that was exported, or is no model of this kind, UsageError
    for a device that is not there, and MissingPackage without ONNX Runtime."""
    about = described(path)
    try:
        opened = session(about.folder / about.file, device, threads)
    except FromzeroError:
        raise
    except Exception as error:  # ONNX Runtime has an exception type for each status and no common base
        raise about.damaged(f"{about.file}: {error}") from error
    _check_shapes(about, opened)
    return OnnxClassifier(about.model, about.labels, about.preprocessing, opened, about.task, about.input)


def _check_shapes(about: Description, session: Any) -> None:
    """The graph takes and gives what the description says."""
    inputs = {each.name: each for each in session.get_inputs()}
    outputs = {each.name: each for each in session.get_outputs()}
    if set(inputs) != {about.input} or about.output not in outputs:
        raise about.damaged(f"inputs {sorted(inputs)}, outputs {sorted(outputs)}")
    given, answer = inputs[about.input], outputs[about.output]
    wanted = [None, *about.shape]
    # A graph may name its dimensions or leave them out instead of counting them: only a wrong count is an error.
    fits = len(given.shape) == len(wanted) and all(
        isinstance(own, str) or own is None or own == other
        for own, other in zip(given.shape[1:], wanted[1:], strict=True)
    )
    if given.type != TENSORS[about.kind.name] or not fits:
        raise about.damaged(f"{about.input} {given.type} {given.shape}")
    if about.task == "lm":
        return
    classes = answer.shape[-1] if len(answer.shape) == 2 else 0
    if answer.type != "tensor(float)" or (isinstance(classes, int) and classes != len(about.labels)):
        raise about.damaged(f"scores {answer.type} {answer.shape}, {len(about.labels)} labels")


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
