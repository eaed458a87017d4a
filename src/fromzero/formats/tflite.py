"""TFLite (LiteRT), for phones and small boards, through litert-torch: one sample at a time, which is what such devices
are asked, and what their accelerators want."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fromzero.errors import MissingPackage
from fromzero.formats._graph import drawing

PACKAGES = ("torch", "litert-torch")
TASKS = ("image", "custom", "text", "table")
LIMITS = "float"
FILE = "model.tflite"


def write(module: Any, how: Any, labels: tuple[str, ...], folder: Path) -> str:
    """Input and output as in ONNX with N = 1; int64 tokens are int32, as the format's kernels want them."""
    from fromzero.models.deploy import example

    logging.getLogger("litert_torch").setLevel(logging.ERROR)
    try:
        import litert_torch
    except ImportError as error:
        raise MissingPackage(error.name or "litert_torch", "tflite") from error
    with drawing("TFLite"):
        litert_torch.convert(module, (example(how, batch=1),)).export(str(folder / FILE))
    return FILE
