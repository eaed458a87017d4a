"""PyTorch: answers from a run's best weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fromzero.errors import MissingPackage
from fromzero.runtimes._torch import TorchClassifier, device_of

__all__ = ["TorchClassifier", "open_answer", "open_model", "open_module", "opens"]


def opens(path: Path) -> bool:
    return (path / "run.json").is_file()


def open_model(path: Path, device: str = "auto", threads: int | None = None) -> TorchClassifier:
    """The classifier of a run: its best weights, or its last where no epoch was finished. `threads` are those of the
    whole process, as PyTorch has it."""
    try:
        import torch
    except ImportError as error:
        raise MissingPackage("torch", "train") from error
    from fromzero.models.deploy import Deployed
    from fromzero.runs import Run
    from fromzero.tasks import trained

    place = device_of(device)
    if threads:
        torch.set_num_threads(threads)
    run = Run(path)
    plan, how = run.plan(), run.preprocessing()
    task = plan.workload.task
    module = Deployed(open_module(path), trained(task).entry(how), language=task == "lm").to(place).eval()
    return TorchClassifier(plan.workload.model.rpartition("/")[2], run.labels(), how, module, task)


def open_module(path: Path) -> Any:
    """The network of a run with its best weights, or its last where no epoch was finished, on the CPU."""
    import dataclasses

    from fromzero import checkpoint
    from fromzero.models.adapters import merge_adapters
    from fromzero.models.fresh import fresh
    from fromzero.runs import Run

    run = Run(path)
    plan = run.plan()
    module = fresh(plan.workload, dataclasses.replace(plan.recipe, checkpointing="none"))
    weights = run.best if checkpoint.exists(run.best) else run.last
    module.load_state_dict(checkpoint.load(weights, "model")[0]["model"])
    return merge_adapters(module)


def open_answer(path: Path) -> Any:
    """What a run's model answers to a batch of inputs and targets as they are loaded: what its task measures."""
    import torch

    from fromzero.runs import Run
    from fromzero.tasks import trained

    run = Run(path)
    task = trained(run.plan().workload.task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    entry, module = task.entry(run.preprocessing()).to(device), open_module(path).to(device).eval()

    def answer(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            given, wanted = (torch.from_numpy(each).to(device) for each in (inputs, targets))
            return task.answers(module(entry(given)), wanted).float().cpu().numpy()

    return answer
