"""What a network's gradients say of its answer, through captum: Grad-CAM (Selvaraju et al. 2017) and integrated
gradients (Sundararajan et al. 2017). They look inside, so they need a run: a `TorchClassifier`.

Integrated gradients add up to the change of the class's log-probability between the input and one that says nothing:
a picture of the mean colour, a text of padding, a row of means and unknown words.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromzero.errors import MissingPackage, UsageError
from fromzero.explaining.hiding import Word, columns_of
from fromzero.models.tabular import Hide, Words
from fromzero.runtimes.torch_runtime import TorchClassifier

STEPS = 32  # between the input that says nothing and the real one
ASKED = 8  # of them at a time
LEAST_SIDE = 4  # cells; a smaller map says nothing of where
MOST_BEHIND = 3  # linear layers behind a feature map (VGG has so many): with more it is no convolutional network
FINEST = 28  # cells a side: single pixels are noise


def grad_cam(classifier: TorchClassifier, sample: np.ndarray, class_index: int) -> np.ndarray:
    """uint8 (size, size, channels) -> float32 (height, width) of the last feature map, >= 0: the map's channels weighed
    by how much the class's logit rises with each. Raises UsageError for a model without such a map."""
    model, inputs = _opened(classifier, sample)
    layer = feature_map(model, inputs)
    if layer is None:
        raise UsageError("no_feature_map", model=classifier.name)
    with _quiet(model):
        found = (
            _captum()
            .LayerGradCam(lambda x: _logits(model, x), layer)
            .attribute(inputs, target=class_index, relu_attributions=True)
        )
    return found[0, 0].detach().float().cpu().numpy()


def feature_map(model: nn.Module, inputs: Tensor) -> nn.Module | None:
    """The module that gives the last convolutional feature map of at least LEAST_SIDE cells a side; None for a network
    without one, or where it is only the beginning, as the patches of a transformer are."""
    ran: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(module: nn.Module, _: Any, out: Any) -> None:
        ran.append((module, tuple(out.shape) if isinstance(out, Tensor) else ()))

    hooks = [each.register_forward_hook(note) for each in model.modules() if each is not model]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for each in hooks:
            each.remove()
    maps = {shape for module, shape in ran if isinstance(module, nn.Conv2d) and min(shape[2:]) >= LEAST_SIDE}
    places = [place for place, (_, shape) in enumerate(ran) if shape in maps]
    if not places:
        return None
    behind = [module for module, _ in ran[places[-1] + 1 :] if isinstance(module, (nn.Linear, nn.MultiheadAttention))]
    return ran[places[-1]][0] if len(behind) <= MOST_BEHIND else None


def integrated_pixels(classifier: TorchClassifier, sample: np.ndarray, class_index: int) -> np.ndarray:
    """uint8 (size, size, channels) -> float32 (cells, cells): what each cell adds to the class's log-probability."""
    model, inputs = _opened(classifier, sample)
    with _quiet(model):
        found = (
            _captum()
            .IntegratedGradients(lambda x: _log_probabilities(model, x))
            .attribute(inputs, torch.zeros_like(inputs), class_index, n_steps=STEPS, internal_batch_size=ASKED)
        )
    pixels = found.detach().float().sum(1)
    cells = min(FINEST, pixels.shape[-1])
    area = pixels.shape[-2] * pixels.shape[-1] / cells**2
    return (functional.adaptive_avg_pool2d(pixels, cells)[0] * area).cpu().numpy()


def integrated_words(
    classifier: TorchClassifier, sample: np.ndarray, class_index: int, words: Sequence[Word]
) -> np.ndarray:
    """int64 (length,) -> float32 (words,): what each word adds to the class's log-probability."""
    model, tokens = _opened(classifier, sample)
    nothing = tokens.clone()
    nothing[0, [place for word in words for place in word.tokens]] = classifier.preprocessing.padding
    (found,) = _by_layer(model, [_embedding(model)], tokens, nothing, class_index)
    each = found[0].sum(-1).cpu().numpy()
    return np.array([each[list(word.tokens)].sum() for word in words], np.float32)


def integrated_columns(classifier: TorchClassifier, sample: np.ndarray, class_index: int) -> np.ndarray:
    """float32 (values,) or (window, values) -> float32 (columns,): what each column adds to the class's
    log-probability. Raises UsageError for a model of the user's own, whose insides nobody here knows."""
    how = classifier.preprocessing
    model, rows = _opened(classifier, sample)
    nothing = torch.zeros_like(rows)
    if how.window:  # which rows are there stays
        place = len(how.numbers) + len(how.flagged)
        nothing[..., place] = rows[..., place]
    entries = [each for each in model.modules() if isinstance(each, Hide)] if how.numbers else []
    tables = [each.table for each in model.modules() if isinstance(each, Words)] if how.words else []
    if len(entries) != bool(how.numbers) or len(tables) != bool(how.words):
        raise UsageError("method_not_for_model", method="integrated-gradients", model=classifier.name)
    found = _by_layer(model, [*entries, *tables], rows, nothing, class_index)
    width, before = rows.shape[-1], rows.shape[-1] - len(how.words)
    values = np.zeros(width, np.float32)
    if entries:  # words come in here as well, but only as places: no gradient goes through them
        values[:before] = found[0].reshape(-1, width).sum(0).cpu().numpy()[:before]
    if tables:
        values[before:] = found[-1].sum(-1).reshape(-1, len(how.words)).sum(0).cpu().numpy()
    return np.array([values[places].sum() for _, places in columns_of(how)], np.float32)


def _by_layer(model: nn.Module, layers: list[nn.Module], inputs: Tensor, nothing: Tensor, target: int) -> list[Tensor]:
    """Integrated gradients of what `layers` give, each of its output's shape."""
    with _quiet(model):
        found = (
            _captum()
            .LayerIntegratedGradients(lambda x: _log_probabilities(model, x), layers)
            .attribute(inputs, nothing, target, n_steps=STEPS, internal_batch_size=ASKED)
        )
    return [each.detach().float() for each in found]


def _opened(classifier: TorchClassifier, sample: np.ndarray) -> tuple[nn.Module, Tensor]:
    """The network behind its entry, and what goes into it, a batch of one."""
    entry, model = classifier.module.normalise, classifier.module.model
    device = next(model.parameters()).device
    return model, entry(torch.tensor(sample[None], device=device))


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    outputs = model(inputs)
    return getattr(outputs, "logits", outputs).float()


def _log_probabilities(model: nn.Module, inputs: Tensor) -> Tensor:
    return functional.log_softmax(_logits(model, inputs), dim=-1)


def _embedding(model: nn.Module) -> nn.Module:
    """The layer that turns tokens into vectors."""
    for each in model.modules():
        if hasattr(each, "get_input_embeddings"):
            return each.get_input_embeddings()
    return next(each for each in model.modules() if isinstance(each, nn.Embedding))


@contextlib.contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """cuDNN goes back through recurrent layers only while they learn; captum warns of layers that might depend on each
    other, which ours do not; and the gradients of the weights are nobody's."""
    with warnings.catch_warnings(), torch.backends.cudnn.flags(enabled=not _recurrent(model)):
        warnings.simplefilter("ignore", UserWarning)
        yield


def _recurrent(model: nn.Module) -> bool:
    return any(isinstance(each, nn.RNNBase) for each in model.modules())


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise MissingPackage("captum", "explain") from error
    return captum.attr
