"""transformers' models by their configuration: `hf:gpt2`, `hf:path/to/config.json`. Freshly initialised, never fetched.

A name is a folder or file with a `config.json`, a known checkpoint (facts/configs.json; its last part is enough), one
that was fetched before (`models.hub`), or a transformers model type, which stands for that type's default
configuration. Where transformers cannot build that, facts/configs.json completes it.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero.errors import MissingPackage, UsageError
from fromzero.models import hub

PREFIX = "hf:"
_FACTS = Path(__file__).parents[2] / "facts" / "configs.json"


def names() -> list[str]:
    return [PREFIX + each for each in dict.fromkeys([*_known(), *_transformers().CONFIG_MAPPING])]


def takes(name: str) -> bool:
    plain = plain_name(name)
    return bool(_file(plain)) or plain in _known() or plain in _transformers().CONFIG_MAPPING


def plain_name(name: str) -> str:
    """What a model is called on the hub, or its path: "hf:all-minilm-l6-v2" is "sentence-transformers/all-MiniLM-L6-v2"
    unless a model type, a folder or another known model is called so."""
    plain = name.removeprefix(PREFIX)
    if _file(plain) or plain in _known() or plain in _transformers().CONFIG_MAPPING:
        return plain
    alike = [each for each in _known() if each.rpartition("/")[2].casefold() == plain.casefold()]
    return alike[0] if len(alike) == 1 else plain


def limits(name: str) -> tuple[int, int]:
    """The longest text in tokens (0: any) and the tokens that a model has rows for."""
    config = _text_config(_config(name))
    longest = getattr(config, "max_position_embeddings", None) or 0
    # RoBERTa and its kin count positions from the number of padding on
    offset = config.pad_token_id + 1 if longest % 128 == 2 and config.pad_token_id else 0
    return longest - offset, config.vocab_size


def task(name: str) -> str:
    """ "lm" for models that predict tokens, "text" for encoders, which classify, "image" for those of pictures."""
    return _head(_config(name)).task


def build(name: str, classes: int, channels: int, size: int, *, vocabulary: int = 0, **_: Any) -> Any:
    """A `vocabulary` other than the configuration's own is one that was made for the data (`data.tokens`): its padding
    is number 0. With one, padding is masked; without, there is none."""
    from fromzero.models import calling

    config, transformers = _config(name), _transformers()
    head, text = _head(config), _text_config(config)
    for each in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if head.task != "lm":
            _set(each, num_labels=classes)
        if head.task == "image":
            _set(each, image_size=size, num_channels=channels)
    if vocabulary and vocabulary != getattr(text, "vocab_size", vocabulary):
        for each in (config, text):
            each.vocab_size, each.pad_token_id, each.bos_token_id, each.eos_token_id = vocabulary, 0, None, None
    if getattr(config, "pad_token_id", 0) is None:
        config.pad_token_id = 0  # classifiers look for the last token that is none
    if not config.architectures:  # from_config asks for it where an architecture has several such heads
        config.architectures = [_first(_architectures(head)[config.model_type])]
    padding = config.pad_token_id if vocabulary and head.task == "text" else None
    if head.task == "text" and (pooling := _pooling(name)):
        encoder = transformers.AutoModel.from_config(config, dtype=_full())
        return calling.Averaged(encoder, config.hidden_size, classes, padding, pooling)
    model = getattr(transformers, head.model).from_config(config, dtype=_full())
    if padding is not None:
        return calling.Masked(model, padding)
    return getattr(calling, head.called)(model) if head.called else model


def _full() -> Any:
    """Weights are made, and learn, in full precision: the recipe says what is computed in another."""
    import torch

    return torch.float32


def normalisation(name: str) -> dict[str, Any] | None:
    return None


@dataclass(frozen=True)
class _Head:
    """What transformers puts on an architecture: its class, the list of architectures that have it, the task it is for,
    and how it is called (`models.calling`)."""

    model: str
    known: str
    task: str
    called: str = ""


# The first that an architecture has. Encoders classify; a masked head is for those that have no classifier.
_HEADS = (
    _Head("AutoModelForSeq2SeqLM", "SEQ_TO_SEQ_CAUSAL_LM", "lm", "SameInput"),
    _Head("AutoModelForCausalLM", "CAUSAL_LM", "lm"),
    _Head("AutoModelForSequenceClassification", "SEQUENCE_CLASSIFICATION", "text"),
    _Head("AutoModelForMaskedLM", "MASKED_LM", "lm"),
    _Head("AutoModelForImageClassification", "IMAGE_CLASSIFICATION", "image", "Logits"),
    _Head("AutoModelForImageTextToText", "IMAGE_TEXT_TO_TEXT", "lm"),  # fed with text alone
)


def _head(config: Any) -> _Head:
    """Which head goes on this architecture. Encoders that could be decoders are encoders unless the configuration says
    so; a configuration saved from a classifier ("LlamaForSequenceClassification") gives that classifier."""
    fitting = [each for each in _HEADS if config.model_type in _architectures(each)]
    saved = [each for each in fitting if _saved_as(config, each.model.removeprefix("AutoModel"))]
    if saved and saved[0].task != "lm":
        return saved[0]
    encoder = any(each.known == "MASKED_LM" for each in fitting) and not getattr(config, "is_decoder", False)
    if encoder:
        fitting = [each for each in fitting if each.known != "CAUSAL_LM"]
    if not fitting:
        raise UsageError("config_no_head", kind=config.model_type)
    return fitting[0]


def _architectures(head: _Head) -> dict[str, Any]:
    """The architectures that have this head: model type -> name of the class, or several."""
    return getattr(_transformers().models.auto.modeling_auto, f"MODEL_FOR_{head.known}_MAPPING_NAMES")


def _first(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else names[0]


def _saved_as(config: Any, head: str) -> bool:
    return any(each.endswith(head) for each in config.architectures or ())


def _set(config: Any, **values: int) -> None:
    """Set what a configuration has, in the form it has it: some give both sides of a picture."""
    for name, value in values.items():
        present = getattr(config, name, None)
        if present is not None:
            setattr(config, name, [value] * len(present) if isinstance(present, (list, tuple)) else value)


def _config(name: str) -> Any:
    plain = plain_name(name)
    mapping = _transformers().CONFIG_MAPPING
    file = _file(plain)
    if file is None and plain not in _known():
        return mapping[plain]()
    values = json.loads(file.read_text(encoding="utf-8")) if file else dict(_known()[plain])
    kind = values.pop("model_type", None)
    if kind not in mapping:
        raise UsageError("config_unknown", name=plain, kind=kind)
    values.pop("pooling", None)
    return mapping[kind].from_dict(values)


def _text_config(config: Any) -> Any:
    """The part of a configuration that is about text: all of it for most models."""
    return config.get_text_config()


def _pooling(name: str) -> str:
    """ "mean" or "cls" for the encoders of sentence-transformers, which have no head; "" for others."""
    plain = plain_name(name)
    file = _file(plain)
    return hub.pooling(file.parent) if file else _known().get(plain, {}).get("pooling", "")


def _file(plain: str) -> Path | None:
    path = Path(plain).expanduser()
    for each in (path, path / "config.json", hub.kept(plain) / "config.json"):
        if each.is_file() and each.suffix == ".json":
            return each
    return None


@functools.cache
def _known() -> dict[str, dict[str, Any]]:
    return json.loads(_FACTS.read_text(encoding="utf-8"))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingPackage("transformers", "text") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
