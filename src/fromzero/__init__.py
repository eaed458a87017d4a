"""fromzero: from a bare NVIDIA card to a served model.

Every word of the command line is a function that returns a record. Nothing is imported until it is used: the package
must run before PyTorch is chosen.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Advice": "records",
    "Candidate": "records",
    "Card": "records",
    "Choice": "records",
    "Energy": "records",
    "FromzeroError": "errors",
    "Memory": "records",
    "Option": "records",
    "Plan": "records",
    "Prediction": "records",
    "Preprocessing": "records",
    "Recipe": "records",
    "Stack": "records",
    "Time": "records",
    "Workload": "records",
    "choose": "choosing",
    "cross_validate": "crossing",
    "evaluate": "report",
    "export": "exporting",
    "fit": "fitting",
    "find_card": "facts.cards",
    "generate": "generating",
    "get": "data.sources.get",
    "plan": "planning",
    "plan_many": "planning",
    "predict": "predicting",
    "resume": "training",
    "serve": "serving.server",
    "train": "starting",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
