"""Sessions of ONNX Runtime: which of its providers compute, with how many threads. Imports no torch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fromzero.errors import MissingPackage, UnknownName, UsageError
from fromzero.language import say
from fromzero.machine.process import usable_cores

# What each device asks for, the best first. TensorRT builds an engine for minutes before it answers: only when asked.
PROVIDERS = {
    "auto": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}


def session(model: Path, device: str = "auto", threads: int | None = None) -> Any:
    """A session on that device. "auto" takes a GPU if this ONNX Runtime can and falls back to the CPU, saying so; a
    device that was named and is not there is a UsageError. What ONNX Runtime says of a bad model it raises itself."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "serve") from error
    if device not in PROVIDERS:
        raise UnknownName("device", device, PROVIDERS)
    known = onnxruntime.get_available_providers()
    wanted = [each for each in PROVIDERS[device] if each in known]
    if device != "auto" and PROVIDERS[device][0] not in wanted:
        raise UsageError("no_provider", device=device, known=", ".join(DEVICES.get(each, each) for each in known))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3  # errors only: its warnings are about its own optimisations
    # Idle threads sleep instead of spinning: the cores are needed to decode the next picture.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made = onnxruntime.InferenceSession(str(model), options, providers=wanted)
    if made.get_providers()[0] != wanted[0]:  # a library of the provider did not load: ONNX Runtime goes on without
        if device != "auto":
            raise UsageError("no_provider", device=device, known=DEVICES[made.get_providers()[0]])
        logging.getLogger(__name__).warning(say("runtime.fell_back", wanted=DEVICES[wanted[0]], model=model.name))
    return made
