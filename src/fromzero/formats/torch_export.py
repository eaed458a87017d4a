"""A program of torch.export (.pt2), with a dynamic batch: runs where PyTorch is, without the code of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fromzero.formats._graph import drawing, dynamic

PACKAGES = ("torch",)
TASKS = ("image", "custom", "text", "table", "lm")
LIMITS = "float"
FILE = "model.pt2"


def write(module: Any, how: Any, labels: tuple[str, ...], folder: Path) -> str:
    """Takes and gives what the module does."""
    import torch

    from fromzero.models.deploy import example

    with drawing("torch.export"):
        program = torch.export.export(module, (example(how),), dynamic_shapes=dynamic(module))
        # The stack traces of its nodes name the files of this machine.
        for part in program.graph_module.modules():
            for node in getattr(getattr(part, "graph", None), "nodes", ()):
                node.meta.pop("stack_trace", None)
                node.meta.pop("nn_module_stack", None)
                node.meta.pop("source_fn_stack", None)
        torch.export.save(program, str(folder / FILE))
    return FILE
