"""Runs an exported ONNX artifact with ONNX Runtime. Imports no torch.

The model's input `pixels` is uint8 (N, size, size, channels), normalisation is inside the graph, and its output
`scores` is float32 (N, classes): what `data.images.pixels` makes goes in as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.errors import MissingPackage, RunError
from fromzero.machine.process import usable_cores
from fromzero.records import Preprocessing, from_json

DESCRIPTION = "artifact.json"


@dataclass(frozen=True)
class OnnxClassifier:
    """A Classifier whose answers come from an ONNX Runtime session."""

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    session: Any
    task: str = "image"

    def scores(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (N, size, size, channels) -> float32 (N, classes); a session may be run from several threads."""
        return self.session.run(["scores"], {"pixels": batch})[0]


def opens(path: Path) -> bool:
    """Whether `path` is an artifact folder for this runtime. A damaged description counts: `open_model` says what is
    wrong with it, which helps more than "not an artifact"."""
    description = Path(path) / DESCRIPTION
    if not description.is_file():
        return False
    try:
        return _read(description).get("format") == "onnx"
    except RunError:
        return True


def open_model(path: Path) -> OnnxClassifier:
    """The classifier in the artifact folder `path`.

    Raises RunError if a file is missing, is not the one that was exported, or is no model of this kind, and
    MissingPackage without ONNX Runtime."""
    folder = Path(path)
    description = _read(folder / DESCRIPTION)
    try:
        name, file = str(description["model"]), str(description["file"])
        labels = tuple(str(each) for each in description["labels"])
        preprocessing = from_json(Preprocessing, description["preprocessing"])
        sums = {str(each): str(value) for each, value in description["sha256"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, f"{DESCRIPTION}: {type(error).__name__} {error}") from error
    if file not in sums:
        raise _damaged(folder, f"{DESCRIPTION}: sha256 lacks {file}")
    for each, expected in sums.items():
        _verify(folder, each, expected)
    session = _session(folder, file)
    _check_shapes(folder, session, labels, preprocessing)
    return OnnxClassifier(name, labels, preprocessing, session)


def _read(description: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(description.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError("artifact_incomplete", path=description.parent, file=description.name) from error
    except (OSError, ValueError) as error:
        raise _damaged(description.parent, f"{description.name}: {error}") from error
    if not isinstance(values, dict):
        raise _damaged(description.parent, f"{description.name}: not an object")
    return values


def _verify(folder: Path, file: str, expected: str) -> None:
    """The file is the one that was exported, byte for byte. Names that lead out of the folder are refused: an
    artifact may come from a stranger."""
    if Path(file).name != file:
        raise _damaged(folder, f"{DESCRIPTION}: {file}")
    digest = hashlib.sha256()
    try:
        with (folder / file).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except FileNotFoundError as error:
        raise RunError("artifact_incomplete", path=folder, file=file) from error
    except OSError as error:
        raise _damaged(folder, f"{file}: {error.strerror or error}") from error
    if digest.hexdigest() != expected.lower():
        raise RunError("artifact_changed", path=folder, file=file)


def _session(folder: Path, file: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "serve") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3  # errors only: its warnings are about its own optimisations
    # Idle threads sleep instead of spinning: the cores are needed to decode the next picture.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    known = onnxruntime.get_available_providers()
    providers = [each for each in ("CUDAExecutionProvider", "CPUExecutionProvider") if each in known]
    try:
        return onnxruntime.InferenceSession(str(folder / file), options, providers=providers)
    except Exception as error:  # ONNX Runtime has an exception type for each status and no common base
        raise _damaged(folder, f"{file}: {error}") from error


def _check_shapes(folder: Path, session: Any, labels: tuple[str, ...], how: Preprocessing) -> None:
    """The graph takes and gives what the description says."""
    inputs = {each.name: each for each in session.get_inputs()}
    outputs = {each.name: each for each in session.get_outputs()}
    if set(inputs) != {"pixels"} or "scores" not in outputs:
        raise _damaged(folder, f"inputs {sorted(inputs)}, outputs {sorted(outputs)}")
    pixels, scores = inputs["pixels"], outputs["scores"]
    wanted = [how.size, how.size, how.channels]
    if pixels.type != "tensor(uint8)" or list(pixels.shape[1:]) != wanted:
        raise _damaged(folder, f"pixels {pixels.type} {pixels.shape}")
    classes = scores.shape[-1] if len(scores.shape) == 2 else 0
    # A graph may name its dimensions or leave them out instead of counting them: only a wrong count is an error.
    if scores.type != "tensor(float)" or (isinstance(classes, int) and classes != len(labels)):
        raise _damaged(folder, f"scores {scores.type} {scores.shape}, {len(labels)} labels")


def _damaged(folder: Path, reason: str) -> RunError:
    return RunError("artifact_damaged", path=folder, reason=reason)
