"""One file a task, found by this folder: what its data are, how a sample becomes an input, what is minimised and what
is measured. The loop, `evaluate`, `predict` and the planner know a task by these words only:

KINDS     the kinds of manifest it learns from: ("texts",)
BEST      the measure that the best epoch is highest in: "val_accuracy"; with a minus, lowest: "-val_loss"
MODEL     the model that is taken when none is named
VARIATIONS  what it knows of the recipe's `augmentation` and `mix`, beside "none"

example(workload, batch, device) -> (inputs, targets)         a batch of the right shapes, for the planner
loss_for(recipe, weights=None) -> callable(outputs, targets)  a scalar tensor; `weights` (classes,) weigh the classes
preprocessing(manifest, model, words, console) -> how         how this data set's samples become inputs of this model:
                                                              a frozen record that holds all there is to know;
                                                              `words` are what the user said: imgsz, seq, pretrained
shape(how) -> dict                                            the words of `plan` that follow from `how`
usual(manifest, how) -> dict                                  the recipe's words that the data ask for
count(manifest, how, console) -> int                          training samples
loading(manifest, how, augmentation) -> int | None            cores that will load; None where that costs nothing
samples(manifest, how, recipe, console) -> Samples            as training sees them; `recipe` None: as they are
entry(how) -> nn.Module                                       from a batch as it is loaded to the model's inputs
answers(outputs, targets) -> Tensor (N, ...)                  what is measured of a batch: probabilities (N, classes);
                                                              (N, 2) nats and tokens of a language model
measures(answers, truth) -> dict[str, float]                  of a whole part: {"loss": ..., "accuracy": ...}
"""

from __future__ import annotations

import importlib
from types import ModuleType


def task(name: str) -> ModuleType:
    """The file of a task."""
    return importlib.import_module(f"{__name__}.{name}")


def trained(name: str) -> ModuleType:
    """The file that trains a task's models: a model of the user's own learns to tell pictures apart."""
    return task("image" if name == "custom" else name)


def usual_model(kind: str, classes: bool) -> str:
    """The model that is taken for data of a kind when none is named."""
    return task("lm" if kind == "texts" and not classes else _BY_KIND[kind]).MODEL


_BY_KIND = {"pictures": "image", "texts": "text", "chats": "lm", "table": "table"}
