"""ONNX, with a dynamic batch; labels and preprocessing also stand in the file's own metadata."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

from fromzero.errors import FromzeroError, MissingPackage
from fromzero.records import Preprocessing, to_json

EXTRA = "export"
FILE = "model.onnx"


def write(module: Any, how: Preprocessing, labels: tuple[str, ...], folder: Path) -> str:
    """Input `pixels` uint8 (N, size, size, channels), output `scores` float32 (N, classes)."""
    import torch

    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackage(error.name or "onnx", EXTRA) from error
    example = torch.zeros((2, how.size, how.size, how.channels), dtype=torch.uint8)
    path = folder / FILE
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its progress
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                (example,),
                str(path),
                input_names=["pixels"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=False,
            )
        except OSError:
            raise
        except Exception as error:  # a model that cannot be drawn as a graph fails in many ways
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise FromzeroError("not_exportable", format="ONNX", reason=reason) from error
    model = onnx.load(path)
    for node in model.graph.node:  # the exporter notes stack traces: paths and source lines of this machine
        del node.metadata_props[:]
    for key, value in (("labels", list(labels)), ("preprocessing", to_json(how))):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return FILE
