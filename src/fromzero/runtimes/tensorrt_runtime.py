"""Runs a TensorRT artifact on an NVIDIA card. Written against the documented API of TensorRT 10 and 11; it was not run
on a GPU, only against a stand-in for the library (tests/runtimes/test_tensorrt_runtime.py).

An engine runs on the card, driver and TensorRT it was built with. So the artifact carries the ONNX model too, and
beside the engine what it was built with: where that is not what is here, the engine is built anew and checked against
ONNX Runtime before it answers. An engine is code: one in a folder from a stranger is as safe as the stranger.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.errors import DiskError, FromzeroError, MissingPackage, RunError, UnknownName, UsageError
from fromzero.files import write_bytes, write_json
from fromzero.language import say
from fromzero.machine.detect import this_machine
from fromzero.runtimes._artifact import Description, described, digest, format_of
from fromzero.runtimes._sessions import session

DEVICES = ("auto", "cuda", "tensorrt")
ENGINE = Path("engine/model.engine")
BUILT_WITH = Path("engine/built-with.json")
USUAL, MOST = 8, 64  # samples of a batch: those the engine is fastest with, and the most it takes at once
WORKSPACE_BYTES = 1 << 30
CHECKED, DIFFERENCE = 16, 2e-2  # random samples, and how far a probability may be off: TF32 has ten bits
_MEMORY = "cuda"


class EngineClassifier:
    """A Classifier over an engine with one context: callers take turns."""

    device = "tensorrt"

    def __init__(self, about: Description, plan: bytes) -> None:
        trt = _library()
        self.name, self.labels, self.task = about.model, about.labels, about.task
        self.preprocessing, self._input = about.preprocessing, about.input
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise about.damaged(f"{ENGINE}: TensorRT")
        self._context, self._lock = self._engine.create_execution_context(), threading.Lock()

    def scores(self, batch: np.ndarray) -> np.ndarray:
        with self._lock:
            return np.concatenate([self._run(batch[at : at + MOST]) for at in range(0, len(batch), MOST)])

    def _run(self, batch: np.ndarray) -> np.ndarray:
        import torch

        given = torch.from_numpy(np.ascontiguousarray(batch)).to(_MEMORY)
        answer = torch.empty((len(batch), len(self.labels)), dtype=torch.float32, device=_MEMORY)
        self._context.set_input_shape(self._input, tuple(batch.shape))
        self._context.set_tensor_address(self._input, given.data_ptr())
        self._context.set_tensor_address("scores", answer.data_ptr())
        if not self._context.execute_async_v3(_stream()):
            raise RuntimeError("TensorRT: execute_async_v3")
        return answer.cpu().numpy()  # waits for the stream


def opens(path: Path) -> bool:
    return format_of(path) == "tensorrt"


def open_model(path: Path, device: str = "auto", threads: int | None = None) -> EngineClassifier:
    """The classifier in the artifact folder; minutes later than usual where the engine has to be built anew.

    Raises RunError for a folder that is not whole or an engine that answers wrongly, UsageError without a card, and
    MissingPackage without TensorRT."""
    if device not in DEVICES:
        raise UnknownName("device", device, DEVICES)
    about, here = described(path), built_with()
    plan = _kept(about, here)
    if plan is not None:
        return EngineClassifier(about, plan)
    logging.getLogger(__name__).warning(say("tensorrt.building", path=about.folder, card=here["card"]))
    plan = build(about.folder / about.file, about.input, about.shape)
    made = EngineClassifier(about, plan)
    _check(about, made)
    with contextlib.suppress(DiskError):  # a folder that is read only: built anew at every start
        keep(about.folder, plan, here)
    return made


def built_with() -> dict[str, str]:
    """What an engine depends on, here: the card, its driver and TensorRT. Raises UsageError without a card."""
    machine = this_machine()
    if not machine.gpus:
        raise UsageError("tensorrt_without_card")
    return {"card": machine.gpus[0].name, "driver": machine.driver, "tensorrt": _library().__version__}


def build(model: Path, input: str, shape: tuple[int | None, ...]) -> bytes:
    """The engine of an ONNX model for this card, for 1 to MOST samples at once. Raises FromzeroError with what
    TensorRT says of a model that it cannot take."""
    trt = _library()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.read_bytes()):
        reasons = [str(parser.get_error(number)) for number in range(parser.num_errors)]
        raise FromzeroError("not_exportable", format="TensorRT", reason="; ".join(reasons)[:300])
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    profile = builder.create_optimization_profile()
    profile.set_shape(input, *((count, *shape) for count in (1, USUAL, MOST)))
    settings.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise FromzeroError("not_exportable", format="TensorRT", reason="build_serialized_network")
    return bytes(plan)


def keep(folder: Path, plan: bytes, here: dict[str, str]) -> None:
    """The engine beside the model, and last what it was built with. Raises DiskError."""
    with contextlib.suppress(OSError):
        (folder / ENGINE).parent.mkdir(exist_ok=True)
    write_bytes(folder / ENGINE, plan)
    write_json(folder / BUILT_WITH, {**here, "sha256": digest(folder / ENGINE)})


def _kept(about: Description, here: dict[str, str]) -> bytes | None:
    """The engine of the folder, if it is whole and was built with what is here."""
    try:
        values = json.loads((about.folder / BUILT_WITH).read_text(encoding="utf-8"))
        if values != {**here, "sha256": digest(about.folder / ENGINE)}:
            return None
        return (about.folder / ENGINE).read_bytes()
    except (OSError, ValueError):
        return None


def _check(about: Description, made: EngineClassifier) -> None:
    """A new engine answers as the model it was built from does in ONNX Runtime, on random samples."""
    rng = np.random.default_rng(0)
    shape = (CHECKED, *(each or 1 for each in about.shape))
    ends = {
        "uint8": 256,
        "int64": getattr(about.preprocessing, "vocabulary", 1),
        "float32": 2,
    }  # a word may have no third place
    given = rng.integers(0, ends[about.kind.name], shape).astype(about.kind)
    wanted = session(about.folder / about.file, "cpu").run(["scores"], {about.input: given})[0]
    difference = float(np.abs(made.scores(given) - wanted).max())
    if not difference <= DIFFERENCE:  # written so that NaN fails
        raise RunError("engine_differs", path=about.folder, difference=f"{difference:.2g}")


def _stream() -> int:
    import torch

    return torch.cuda.current_stream().cuda_stream


def _library() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise MissingPackage("tensorrt", "tensorrt") from error
    return tensorrt
