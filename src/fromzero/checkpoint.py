"""Weights and training state on disk: safetensors and JSON, never a pickle, never half-written.

A checkpoint is a folder written beside its place and swapped in. `state.json` is written last and holds the checksum
of every other file, so a folder is either complete or known not to be. After a crash between the two renames of a
swap, the complete one of the two folders is read in its place, and the next `save` begins by finishing the swap.
Reading changes nothing on disk: another process may be training. What was in the place before can be kept for the case
that a disk gives back other bits than it was given.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fromzero.errors import RunError
from fromzero.files import disk_error, sync

Tensors = dict[str, torch.Tensor]
_STATE = "state.json"


def save(
    folder: Path,
    groups: dict[str, Tensors],
    state: dict[str, Any],
    shards: Path | None = None,
    *,
    spare: bool = False,
) -> None:
    """Write `groups` as `<group>.safetensors` and `state` as JSON, then take the place of what was in `folder`, which
    with `spare` is kept beside it until the next save: see `mend`. At no moment there are more than two.
    `shards` is a folder beside it, of files that several processes wrote: they move into the checkpoint. Raises
    DiskError; the checkpoint that was there stays whole."""
    new, old = _beside(folder)
    try:
        recover(folder)
        new.mkdir(parents=True)
        sums = {}
        for name, tensors in groups.items():
            path = new / f"{name}.safetensors"
            save_file(_storable(tensors), path)
            sync(path)
            sums[path.name] = _checksum(path)
        for path in sorted(shards.iterdir()) if shards else ():
            sync(path)
            os.replace(path, new / path.name)
            sums[path.name] = _checksum(new / path.name)
        state_file = new / _STATE
        state_file.write_text(json.dumps({**state, "sha256": sums}, indent=1), encoding="utf-8")
        sync(state_file)
        _swap(folder, new, old)
        if not spare:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise disk_error(folder, error if isinstance(error, OSError) else OSError(str(error))) from error


def load(folder: Path, *groups: str) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """The named groups (all of them if none is named, without shards) and the state, checked against their checksums.
    Raises RunError where there is none or it is damaged."""
    folder = _present(folder)
    if not folder.is_dir():
        raise RunError("no_checkpoint", path=folder)
    state = _state(folder)
    if state is None:
        raise RunError("checkpoint_damaged", path=folder / _STATE)
    loaded = {}
    for name in groups or [each.removesuffix(".safetensors") for each in state["sha256"] if not _is_shard(each)]:
        path = folder / f"{name}.safetensors"
        if not path.is_file() or _checksum(path) != state["sha256"].get(path.name):
            raise RunError("checkpoint_damaged", path=path)
        loaded[name] = load_file(path)
    return loaded, state


def shards(folder: Path) -> Path | None:
    """The folder with the shards of a checkpoint that several processes wrote, checked; None where it has none. Raises
    RunError where it is damaged."""
    folder = _present(folder)
    sums = {name: sha for name, sha in ((_state(folder) or {}).get("sha256") or {}).items() if _is_shard(name)}
    for name, sha in sums.items():
        if not (folder / name).is_file() or _checksum(folder / name) != sha:
            raise RunError("checkpoint_damaged", path=folder / name)
    return folder if sums else None


def _is_shard(name: str) -> bool:
    return name.startswith("shard-")


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint to load. A damaged one counts: `load` says so, which is better than starting
    again in silence."""
    return _present(folder).is_dir()


def recover(folder: Path) -> None:
    """Finish, or undo, a swap that a crash cut off. Only for the process that writes this checkpoint."""
    present = _present(folder)
    if present != folder:
        os.replace(present, folder)
    for each in _beside(folder):
        shutil.rmtree(each, ignore_errors=True)


def mend(folder: Path) -> bool:
    """Put the checkpoint before, where it was kept, in the place of one that is damaged; whether there was need. Only
    for the process that writes this checkpoint. Raises RunError where neither is whole."""
    if not folder.is_dir() or _complete(folder):
        return False
    _, old = _beside(folder)
    if not _complete(old):
        raise RunError("checkpoint_damaged", path=folder)
    shutil.rmtree(folder)
    os.replace(old, folder)
    return True


def _storable(tensors: Tensors) -> Tensors:
    """On the CPU, contiguous, and without two names for one storage: what safetensors takes."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _swap(folder: Path, new: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")


def _present(folder: Path) -> Path:
    """Where the checkpoint lies: in its place, or in the newer complete folder of a swap that was cut off."""
    if folder.exists():
        return folder
    return next((each for each in _beside(folder) if _complete(each)), folder)


def _state(folder: Path) -> dict[str, Any] | None:
    """The state with its checksums; None if it cannot be read."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("sha256"), dict) else None


def _complete(folder: Path) -> bool:
    state = _state(folder)
    if state is None:
        return False
    return all((folder / n).is_file() and _checksum(folder / n) == s for n, s in state["sha256"].items())


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
