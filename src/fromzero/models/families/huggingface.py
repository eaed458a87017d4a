"""Language models by their configuration: `hf:gpt2`, `hf:path/to/config.json`. Freshly initialised; nothing is fetched.

A name is a folder or file with a `config.json`, a known checkpoint (facts/configs.json), or a transformers model type,
which stands for that type's default configuration.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from fromzero.errors import MissingPackage, UsageError

PREFIX = "hf:"
_FACTS = Path(__file__).parents[2] / "facts" / "configs.json"


def names() -> list[str]:
    return [PREFIX + each for each in [*_known(), *_transformers().CONFIG_MAPPING]]


def takes(name: str) -> bool:
    plain = name.removeprefix(PREFIX)
    return bool(_file(plain)) or plain in _known() or plain in _transformers().CONFIG_MAPPING


def task(name: str) -> str:
    """ "lm" for models that predict the next token, "text" for encoders, which classify."""
    return "text" if _kind(_config(name)) == "AutoModelForSequenceClassification" else "lm"


def build(name: str, classes: int, channels: int, size: int) -> Any:
    config = _config(name)
    kind = _kind(config)
    if kind == "AutoModelForSequenceClassification":
        config.num_labels = classes
    if hasattr(config, "pad_token_id") and config.pad_token_id is None:
        config.pad_token_id = 0  # classifiers look for the last token that is none
    model = getattr(_transformers(), kind).from_config(config)
    if kind != "AutoModelForSeq2SeqLM":
        return model
    from fromzero.models.seq2seq import SameInput

    return SameInput(model)


def normalisation(name: str) -> dict[str, Any] | None:
    return None


def _kind(config: Any) -> str:
    """Which of transformers' heads goes on this architecture."""
    auto = _transformers().models.auto.modeling_auto
    if config.model_type in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "AutoModelForSeq2SeqLM"
    masked = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if causal and (not masked or getattr(config, "is_decoder", False)):
        return "AutoModelForCausalLM"
    return "AutoModelForSequenceClassification" if masked else "AutoModelForCausalLM"


def _config(name: str) -> Any:
    plain = name.removeprefix(PREFIX)
    mapping = _transformers().CONFIG_MAPPING
    file = _file(plain)
    if file is None and plain not in _known():
        return mapping[plain]()
    values = json.loads(file.read_text(encoding="utf-8")) if file else dict(_known()[plain])
    kind = values.pop("model_type", None)
    if kind not in mapping:
        raise UsageError("config_unknown", name=plain, kind=kind)
    return mapping[kind].from_dict(values)


def _file(plain: str) -> Path | None:
    path = Path(plain).expanduser()
    for each in (path, path / "config.json"):
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
    return transformers
