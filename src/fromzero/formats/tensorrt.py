"""TensorRT: an engine built on the card that is here, from an ONNX model that the artifact keeps beside it. Not run on
a GPU: see `runtimes.tensorrt_runtime`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fromzero.formats._graph import names, not_exportable, write_onnx
from fromzero.models.deploy import example
from fromzero.runtimes import tensorrt_runtime

PACKAGES = ("torch", "onnx", "tensorrt")
TASKS = ("image", "custom", "text", "table")
LIMITS = "tf32"
FILE = "model.onnx"


def write(module: Any, how: Any, labels: tuple[str, ...], folder: Path) -> str:
    """model.onnx, and the engine in a folder of its own: it is no part of what the artifact's checksums hold, because
    another machine builds it anew."""
    here = tensorrt_runtime.built_with()  # before the work: without card or library there is nothing to do
    import onnx

    given, _ = names(module, how)
    model = write_onnx(module, how, labels, folder / FILE)
    if given == "pixels":
        cast_first(model)
        onnx.checker.check_model(model)
        onnx.save(model, folder / FILE)
    plan = tensorrt_runtime.build(folder / FILE, given, tuple(example(how).shape[1:]))
    tensorrt_runtime.keep(folder, plan, here)
    return FILE


def cast_first(model: Any) -> None:
    """Bytes become floats before anything else is done to them, which is all that TensorRT does with bytes: the input's
    transposition and the cast behind it change places."""
    nodes = list(model.graph.node)
    source = model.graph.input[0].name
    first = next((node for node in nodes if source in node.input), None)
    if first is not None and first.op_type == "Cast":
        return
    cast = next((node for node in nodes if first is not None and first.output[0] in node.input), None)
    if first is None or cast is None or cast.op_type != "Cast" or first.op_type not in ("Transpose", "Reshape"):
        raise not_exportable("TensorRT", f"{source} -> {first.op_type if first is not None else None}")
    between = first.output[0]
    first.input[0], first.output[0], cast.input[0], cast.output[0] = between, cast.output[0], source, between
    order = [cast if node is first else first if node is cast else node for node in nodes]
    kept = [node.SerializeToString() for node in order]
    del model.graph.node[:], model.graph.value_info[:]  # which types the values between had
    for each in kept:
        model.graph.node.add().ParseFromString(each)
