"""SwanLab. Without a login it writes into the run's folder only, for `swanlab sync`; SWANLAB_MODE and its other
settings are honoured (`local` for its dashboard on this machine).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from fromzero.runs import Run
from fromzero.trackers import PROJECT, keep, kept, settings

PACKAGE = "swanlab"


def start(run: Run, first: int) -> Tracked:
    import swanlab

    own = swanlab.Settings()  # from the environment and the login
    mode = own.mode if "SWANLAB_MODE" in os.environ or own.api_key else "offline"
    identity = kept(run, "swanlab").get("id") or secrets.token_hex(10)
    if mode == "offline":  # written through late: what a killed process told may be lost, so all is told again
        shutil.rmtree(run.path / "swanlab", ignore_errors=True)
    with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to results
        made = swanlab.init(
            project=own.project.name or PROJECT,
            name=run.path.name,
            id=identity,
            resume="allow",
            log_dir=str(run.path / "swanlab"),
            mode=mode,
            config=settings(run),
            settings=swanlab.Settings(
                probe={
                    "hardware": False,
                    "runtime": False,
                    "requirements": False,
                    "git": False,
                    "monitor": False,  # the run tells of its machine by itself
                },
                terminal={"proxy_type": "none"},
            ),
        )
    keep(run, "swanlab", id=identity)
    return Tracked(made, made.url if mode == "online" else str(run.path / "swanlab"), mode == "offline")


class Tracked:
    """`exact` where it begins anew, and is `blank`: told all that stands in the run's files."""

    def __init__(self, run: Any, where: str, exact: bool) -> None:
        self.exact = self.blank = exact
        self.run, self.where = run, where

    def tell(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def end(self, finished: bool) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.run.finish(state="success" if finished else "aborted")
