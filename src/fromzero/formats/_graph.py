"""What the formats have in common: from a module to a graph, or the reason why there is none."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fromzero.errors import FromzeroError, MissingPackage
from fromzero.records import to_json
from fromzero.runtimes._artifact import INPUTS

BATCH = "batch"
LENGTH = "length"


def names(module: Any, how: Any) -> tuple[str, str]:
    """How input and output are called."""
    return INPUTS[type(how).__name__][0], "logits" if module.language else "scores"


def dynamic(module: Any) -> tuple[dict[int, Any], ...]:
    """What may differ from call to call, as torch.export takes it: the batch, and the length of a text that a language
    model continues."""
    from torch.export import Dim

    shape = {0: Dim(BATCH, min=1)}
    return ({**shape, 1: Dim(LENGTH, min=2)},) if module.language else (shape,)


@contextlib.contextmanager
def drawing(format: str) -> Iterator[None]:
    """Quietly; a model that cannot be drawn as a graph fails in many ways, and is told in one sentence."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        except (OSError, FromzeroError):
            raise
        except Exception as error:
            raise not_exportable(format, error) from error


def not_exportable(format: str, error: object) -> FromzeroError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
    return FromzeroError("not_exportable", format=format, reason=reason)


def write_onnx(module: Any, how: Any, labels: tuple[str, ...], path: Path) -> Any:
    """The module as an ONNX file, checked, and the model in it. Labels and preprocessing also stand in its metadata;
    nothing of the machine that made it does."""
    import torch

    from fromzero.models.deploy import example

    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackage(error.name or "onnx", "export") from error
    given, answer = names(module, how)
    with drawing("ONNX"):
        torch.onnx.export(
            module,
            (example(how),),
            str(path),
            input_names=[given],
            output_names=[answer],
            dynamic_shapes=dynamic(module),
            dynamo=True,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    model = onnx.load(path)
    # The exporter tries several ways; the last of them gives dimensions up without a word.
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for place, name in enumerate((BATCH, LENGTH)[: 1 + module.language]):
        if not dims[place].dim_param:
            raise not_exportable("ONNX", f"{name} = {dims[place].dim_value}")
    for node in model.graph.node:  # the exporter notes stack traces: paths and source lines of this machine
        del node.metadata_props[:]
    about = {key: value for key, value in to_json(how).items() if key != "tokenizer"}  # as long as all the rest
    for key, value in (("labels", list(labels)), ("preprocessing", about)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return model
