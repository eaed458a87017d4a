"""PyTorch again, from an exported program (`model.pt2`): the graph and its weights, without the code of the model."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

from fromzero.errors import MissingPackage
from fromzero.runtimes._artifact import Description, described, format_of
from fromzero.runtimes._torch import TorchClassifier, device_of

# Entries that PyTorch's reader unpickles, and so could run a stranger's code. A program of ours has none.
PICKLED = ("opaque_obj", "custom_obj")


def opens(path: Path) -> bool:
    return format_of(path) == "torch-export"


def open_model(path: Path, device: str = "auto", threads: int | None = None) -> TorchClassifier:
    """The classifier in the artifact folder. Raises RunError for a file that is missing, was changed, or is no such
    program, and UsageError for a device that is not there."""
    try:
        import torch
    except ImportError as error:
        raise MissingPackage("torch", "train") from error
    about = described(path)
    place = device_of(device)
    if threads:
        torch.set_num_threads(threads)
    program = _loaded(about)
    if place == "cuda":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, place)
    return TorchClassifier(about.model, about.labels, about.preprocessing, program.module(), about.task)


def _loaded(about: Description) -> Any:
    import torch

    file = about.folder / about.file
    try:
        with zipfile.ZipFile(file) as archive:
            pickled = [each for each in archive.namelist() if Path(each).name.startswith(PICKLED)]
        if pickled:
            raise about.damaged(f"{about.file}: {pickled[0]}")
        # Else a tensor that does not load as a tensor is tried as a pickle.
        with mock.patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
            return torch.export.load(str(file))
    except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise about.damaged(f"{about.file}: {type(error).__name__} {str(error)[:200]}") from error
