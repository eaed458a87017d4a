"""Weights & Biases. Without a login it writes into the run's folder only, for `wandb sync`; WANDB_MODE, WANDB_PROJECT
and the other settings of its own are honoured.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from typing import Any

from fromzero.runs import Run
from fromzero.trackers import PROJECT, keep, kept, settings

PACKAGE = "wandb"


def start(run: Run, first: int) -> Tracked:
    import wandb

    identity = kept(run, "wandb").get("id") or secrets.token_hex(8)
    offline = "WANDB_MODE" not in os.environ and not wandb.login(prompt=False)
    if offline:  # written through late: what a killed process told may be lost, so all is told again
        shutil.rmtree(run.path / "wandb", ignore_errors=True)
    made = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        name=run.path.name,
        id=identity,
        resume="allow",
        dir=str(run.path),
        mode="offline" if offline else None,
        config=settings(run),
        settings=wandb.Settings(
            silent=True,
            console="off",  # standard output belongs to results, and is nobody's to copy
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,  # the run tells of its machine by itself
            x_save_requirements=False,
        ),
    )
    keep(run, "wandb", id=identity)
    return Tracked(made, str(run.path / "wandb"), offline)


class Tracked:
    """`exact` where it begins anew, and is `blank`: told all that stands in the run's files."""

    def __init__(self, run: Any, folder: str, exact: bool) -> None:
        self.exact = self.blank = exact
        self.run, self.where = run, folder if run.offline or not run.url else run.url

    def tell(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def end(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)
