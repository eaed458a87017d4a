"""Int8: weights and activations in 8 bits, their ranges read from real training samples (ONNX Runtime's static
quantisation with QDQ nodes). Weights are signed, a scale for each output channel, in 7 bits: CPUs without VNNI add two
products in 16 bits and saturate with 8. Activations are unsigned. Whether that is faster depends on model and CPU: it
is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.shrink import NothingToGain, Source
from fromzero.shrink._artifacts import derived, model_file, quantisation, quiet, samples
from fromzero.terminal import Console

CHANGES = "artifact"
TRAINS = False
SETTINGS = ("",)
SAMPLES = 256  # that ranges are read from
PRODUCTS = {"Conv", "Gemm", "MatMul"}
# Of a convolutional network also what would otherwise go to floating point and back between two products. Elsewhere
# sums stay in floating point: the few large values that a transformer carries past its layers leave 8 bits for nothing
# else. Normalisation of the input, products of two activations (attention) and softmax stay as they are everywhere.
BETWEEN = {"Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip"}


def make(source: Source, setting: str, folder: Path, console: Console) -> None:
    with quiet(), tempfile.TemporaryDirectory() as place:
        tools = quantisation()
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        given = model_file(source.artifact)
        there = {each.op_type for each in onnx.load(given).graph.node}
        if not there & PRODUCTS:
            raise NothingToGain("nothing_to_quantise")
        ready, written = Path(place) / "ready.onnx", Path(place) / "int8.onnx"
        quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
        tools.quantize_static(
            str(ready),
            str(written),
            _reader(given, samples(source.run, "train", SAMPLES)),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=sorted(PRODUCTS | (BETWEEN if "Conv" in there else set())),
            per_channel=True,
            reduce_range=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            nodes_to_exclude=_of_activations(onnx.load(ready).graph),
        )
        model = onnx.load(written)
    derived(source.artifact, folder, model, "int8")


def _of_activations(graph: Any) -> list[str]:
    """The products that have no weights among their factors, by name."""
    weights = {each.name for each in graph.initializer}
    return [each.name for each in graph.node if each.op_type in PRODUCTS and not weights & set(each.input)]


def _reader(model: Path, given: np.ndarray) -> Any:
    """The samples one by one, as calibration asks for them."""
    import onnx

    tools = quantisation()
    name = onnx.load(model, load_external_data=False).graph.input[0].name

    class Reader(tools.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.rest: Iterator[np.ndarray] = iter(given)

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self.rest, None)
            return None if sample is None else {name: sample[None]}

    return Reader()
