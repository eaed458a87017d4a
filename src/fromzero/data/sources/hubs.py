"""Data sets of Hugging Face (`hf:owner/name`) and ModelScope (`ms:owner/name`): their tables and pictures as files.

The hubs' own clients download (mirrors by HF_ENDPOINT and MODELSCOPE_DOMAIN, tokens by their own login). Only files
that hold data are asked for: nothing that would be run or unpickled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from fromzero.data.images import SUFFIXES
from fromzero.errors import SourceError, UsageError
from fromzero.language import say
from fromzero.terminal import Console

TABLES = ("*.parquet", "*.csv", "*.tsv", "*.jsonl", "*.json", "*.txt")
ARCHIVES = ("*.zip", "*.tar", "*.tar.gz", "*.tgz")
PICTURES = tuple(f"*{each}" for suffix in SUFFIXES for each in (suffix, suffix.upper()))
HELD = (*TABLES, *ARCHIVES, *PICTURES)
BESIDE = ("README.md", "LICENSE*")


@dataclass(frozen=True)
class Hub:
    """`host` names the server that is asked, `fetch(name, revision, folder, console)` puts the files into a folder and
    gives the revision they are of."""

    title: str
    host: Callable[[], str]
    fetch: Callable[[str, str | None, Path, Console], str]
    package: str


def snapshot(kind: str, name: str, folder: Path, console: Console) -> str:
    """The files of `owner/name` or `owner/name@revision` into `folder`, which a broken attempt leaves for the next;
    gives the revision. Raises SourceError naming the host, UsageError for a name of another form."""
    hub = HUBS[kind]
    name, _, revision = name.partition("@")
    if name.count("/") != 1 or not all(name.split("/")) or ".." in name:
        raise UsageError("hub_name", name=f"{kind}:{name}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = hub.fetch(name, revision or None, folder, console)
    except SourceError:
        raise
    except ImportError as error:
        raise SourceError("hub_package", [str(error)], name=name, package=hub.package) from error
    except Exception as error:  # the clients raise each other's errors, of a dozen kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
        status = getattr(getattr(error, "response", None), "status_code", None)
        code = "hub_refused" if status is not None and 400 <= status < 500 else "hub_unreachable"
        raise SourceError(code, [reason], name=name, host=hub.host()) from error
    for each in (".cache", "._____temp", ".mv", ".msc"):  # the clients' own notes
        path = folder / each
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if not any(_holds_data(each.name) for each in folder.rglob("*") if each.is_file()):
        raise SourceError("hub_nothing", [say("source.no_file", name=" ".join(TABLES))], name=name, host=hub.host())
    return found


def _holds_data(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in HELD)


def _hugging_face(name: str, revision: str | None, folder: Path, console: Console) -> str:
    """All files of one commit, each with the size the hub states."""
    import huggingface_hub

    about = huggingface_hub.HfApi().dataset_info(name, revision=revision, files_metadata=True, timeout=20)
    licence = getattr(about.card_data, "license", None) if about.card_data else None
    console.line(say("licence.hub", name=name, licence=str(licence or "?"), page=f"{_hf_host()}/datasets/{name}"))
    wanted = {each.rfilename: each.size for each in about.siblings or () if _is_wanted(each.rfilename)}
    huggingface_hub.snapshot_download(
        name, repo_type="dataset", revision=about.sha, local_dir=folder, allow_patterns=[*HELD, *BESIDE]
    )
    for file, size in wanted.items():
        path = folder / file
        if not path.is_file() or (size is not None and path.stat().st_size != size):
            raise OSError(say("source.cut_off", name=file))
    return str(about.sha)


def _is_wanted(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and any(fnmatch(file, one) for one in HELD + BESIDE)


def _modelscope(name: str, revision: str | None, folder: Path, console: Console) -> str:
    """Its client compares the checksum of each file with the hub's."""
    import importlib  # not among the packages that fromzero brings, nor known to the type checker

    fetch = importlib.import_module("modelscope.hub.snapshot_download").dataset_snapshot_download

    console.line(say("licence.hub", name=name, licence="?", page=f"{_ms_host()}/datasets/{name}"))
    patterns = [*HELD, *BESIDE]
    words: dict[str, Any] = {"revision": revision} if revision else {}
    fetch(name, local_dir=str(folder), allow_file_pattern=patterns, **words)
    return revision or "master"


def _hf_host() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/").partition("://")[2] or "huggingface.co"


def _ms_host() -> str:
    return os.environ.get("MODELSCOPE_DOMAIN", "www.modelscope.cn").rstrip("/").rpartition("://")[2]


HUBS = {
    "hf": Hub("Hugging Face", _hf_host, _hugging_face, "huggingface_hub"),
    "ms": Hub("ModelScope", _ms_host, _modelscope, "modelscope"),
}
