"""4 bits for the weights of matrix multiplications, in blocks with a scale each (ONNX Runtime's MatMulNBits);
activations stay in floating point. It saves memory where a model is made of such matrices: transformers. Convolutions
are left as they are."""

from __future__ import annotations

from pathlib import Path

from fromzero.shrink import NothingToGain, Source
from fromzero.shrink._artifacts import derived, model_file, quantisation, quiet
from fromzero.terminal import Console

CHANGES = "artifact"
TRAINS = False
SETTINGS = ("",)
BLOCK = 32  # weights that share a scale
ACCURACY = 4  # the kernel computes in int8, which is the fast one


def make(source: Source, setting: str, folder: Path, console: Console) -> None:
    with quiet():
        quantisation()
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        tool = MatMulNBitsQuantizer(
            onnx.load(model_file(source.artifact)), bits=4, block_size=BLOCK, is_symmetric=True, accuracy_level=ACCURACY
        )
        tool.process()
    model = tool.model.model
    if not any(each.op_type == "MatMulNBits" for each in model.graph.node):
        raise NothingToGain("no_matrices")
    derived(source.artifact, folder, model, "int4")
