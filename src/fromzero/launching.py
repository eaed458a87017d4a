"""Starting a run on many cards: PyTorch's torchrun keeps the processes, this writes down what it is told.

A run is planned once, by one process; its cards then each do `fromzero train --resume RUN`. So a process that died, a
machine that was away and a job that the queue stopped are all started again by the same words, and go on from the last
checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero.errors import RunError, UsageError
from fromzero.language import say
from fromzero.machine.process import usable_cores
from fromzero.records import Recipe
from fromzero.terminal import Console

RESTARTS = 3  # of all processes of a machine, before the job is given up
PORT = 29500  # where the machines of a job find each other; PyTorch's own default
# torchrun's processes meet in its own store, where those of the last attempt left their addresses: after a restart, one
# that comes early calls the dead (pytorch issue 135712; in 2.14 still one restart of two here). So each attempt has its
# own store.
STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
MOST_ON_CPU = 64
GRACE_SECONDS = 120  # to finish a step and save, before a queue ends the processes


def joined() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def wanted(recipe: Recipe) -> bool:
    """Whether a run has to be started on several cards, and has not been."""
    return recipe.cards > 1 and not joined()


def check_shape(cards: int, nodes: int) -> None:
    """Every machine has as many cards as the others. Raises UsageError."""
    if cards % nodes:
        raise UsageError("cards_over_nodes", cards=cards, nodes=nodes)


_DIVIDED = ("fsdp", "fsdp-grad-op", "pipeline")
# What needs the whole model, or changes which weights learn while it is divided: (field, value, where). None: any.
_ALONE = (
    ("ema", None, _DIVIDED),
    ("freeze", "gradual", _DIVIDED),
    ("base_quantisation", "nf4", _DIVIDED),
    ("precision", "amp-fp16", ("pipeline",)),
    ("l1", None, ("pipeline",)),
    ("lr", "find", _DIVIDED),
    ("linear_probe", None, _DIVIDED),
)


def check(recipe: Mapping[str, Any], device: str) -> None:
    """Refuse what cannot be started from here, or not on several cards. `recipe` are the words of a recipe that were
    given. Raises UsageError."""
    cards, nodes, parallel = recipe.get("cards", 1), recipe.get("nodes", 1), recipe.get("parallel", "ddp")
    check_shape(cards, nodes)
    for name, refused, where in _ALONE:
        value = recipe.get(name)
        if cards > 1 and parallel in where and value and refused in (None, value):
            flag = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise UsageError("not_together", flag=flag, parallel=parallel)
    if nodes == 1 and not joined() and cards > _cards_here(device):
        raise UsageError("cards_missing", cards=cards, found=_cards_here(device))


def together(run: Path, recipe: Recipe, device: str, console: Console) -> None:
    """Follow a run's plan on this machine's cards, one process each, until it is done; or, for a job of several
    machines, say what starts it on each. With fewer cards than the plan has, as many as share its work evenly. Raises
    RunError when the processes died more often than they are started again."""
    if recipe.nodes > 1:
        line = shlex.join(command(run, recipe.nodes, recipe.cards // recipe.nodes, "HOST", run.name))
        console.line(say("launch.each_machine", nodes=recipe.nodes, command=line))
        return
    most = min(recipe.cards, _cards_here(device))
    count = max(each for each in range(1, most + 1) if recipe.cards % each == 0)
    console.line(say("launch.starting", count=count))
    _torchrun(run, count)


def command(run: Path, nodes: int, cards: int, host: str, job: str) -> list[str]:
    """What each of `nodes` machines runs for a job with `cards` cards in each; `host` is the first of them."""
    return [
        *("env", f"{STORE}=1", "python"),
        *("-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={cards}"),
        *(f"--max-restarts={RESTARTS}", f"--rdzv-id={job}", "--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{PORT}"),
        *("-m", "fromzero", "train", "--resume", str(run)),
    ]


def _torchrun(run: Path, count: int) -> None:
    """What the program torchrun does, in this process: a signal to it reaches the others, and none outlives it."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[STORE] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    with tempfile.TemporaryDirectory(prefix="fromzero-") as logs:  # standard output is this process's own
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=RESTARTS,
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=Std.OUT),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "fromzero", "train", "--resume", str(run))
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            ended = failure.signal_name() or say("launch.status", status=failure.exitcode)
            raise RunError("processes_failed", path=run, process=rank, ended=ended, restarts=RESTARTS) from error
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from error
            raise SystemExit(128 + error.sigval) from error


def _cards_here(device: str) -> int:
    """Processes that this machine has a card for; on a CPU they share the cores, for trying things out."""
    if device == "cpu":
        return MOST_ON_CPU
    import torch

    return torch.cuda.device_count()


# --- job files --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job: `words` are those of `fromzero train` (without --cards, --nodes and --output), `run` the folder
    that all machines see."""

    words: tuple[str, ...]
    run: str
    name: str = "fromzero"
    nodes: int = 1
    cards: int = 1  # of all machines together
    hours: float | None = None
    partition: str = ""
    image: str = ""
    claim: str = ""
    mount: str = "/work"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?", self.name):  # it becomes a part of host names
            raise UsageError("not_a_job_name", name=self.name)

    @property
    def each(self) -> int:
        """Cards of one machine."""
        return self.cards // self.nodes

    @property
    def on_cpu(self) -> bool:
        return "--device=cpu" in self.words or ("--device", "cpu") in zip(self.words, self.words[1:], strict=False)


def torchrun(job: Job) -> str:
    """A script to start on each machine, by hand or by ssh."""
    return f"""#!/usr/bin/env bash
# {_started(job)}
set -euo pipefail
host=${{1:-$(hostname)}}  # the first machine, by a name that the others know it by
first=no
if [ "$host" = "$(hostname)" ]; then first=yes; fi
{_body(job, '"$first" = yes', "$host")}
"""


def slurm(job: Job) -> str:
    """A script for sbatch. Put in the queue again, it continues where it was."""
    wishes = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        **({"cpus-per-task": job.each} if job.on_cpu else {"gpus-per-node": job.each}),
        **({"time": _clock(job.hours)} if job.hours else {}),
        **({"partition": job.partition} if job.partition else {}),
        "signal": f"{'B:' if job.nodes == 1 else ''}TERM@{GRACE_SECONDS}",  # one machine: the script is the training
        "requeue": None,
        "open-mode": "append",
        "output": "%x-%j.log",
    }
    lines = "\n".join(f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in wishes.items())
    steps = _body(job, "", "")
    if job.nodes > 1:  # the script runs on the first machine
        steps = f"""host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
[ -e {_exists(job)} ] || {_train(job)}
exec srun {_torchrun_line(job, "$host")}"""
    return f"""#!/usr/bin/env bash
{lines}
# sbatch THIS FILE. {_started(job)}
set -euo pipefail
{steps}
"""


def kubernetes(job: Job) -> str:
    """A Job with one pod for each machine, and the service by which they find each other. Needs an image with
    fromzero and a claim that all pods can write (ReadWriteMany)."""
    if not job.image or not job.claim:
        raise UsageError("image_and_claim")
    body = _body(job, '"$JOB_COMPLETION_INDEX" = 0', f"{job.name}-0.{job.name}")
    script = "\n".join("              " + line if line else "" for line in ["set -euo pipefail", *body.splitlines()])
    wants = f"cpu: {json.dumps(str(job.each))}" if job.on_cpu else f"nvidia.com/gpu: {job.each}"
    deadline = f"\n  activeDeadlineSeconds: {round(job.hours * 3600)}" if job.hours else ""
    return f"""# kubectl apply -f THIS FILE. {_started(job)}
apiVersion: v1
kind: Service
metadata:
  name: {job.name}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    job-name: {job.name}
  ports:
    - name: rendezvous
      port: {PORT}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {job.name}
spec:
  completionMode: Indexed
  completions: {job.nodes}
  parallelism: {job.nodes}
  backoffLimit: {RESTARTS * job.nodes}{deadline}
  template:
    spec:
      subdomain: {job.name}
      restartPolicy: OnFailure
      terminationGracePeriodSeconds: {GRACE_SECONDS}
      containers:
        - name: train
          image: {json.dumps(job.image)}
          workingDir: {json.dumps(job.mount)}
          command:
            - bash
            - -c
            - |
{script}
          ports:
            - containerPort: {PORT}
          resources:
            limits:
              {wants}
          volumeMounts:
            - name: work
              mountPath: {json.dumps(job.mount)}
            - name: shared-memory
              mountPath: /dev/shm
      volumes:
        - name: work
          persistentVolumeClaim:
            claimName: {json.dumps(job.claim)}
        - name: shared-memory
          emptyDir:
            medium: Memory
"""


FORMATS = {"torchrun": torchrun, "slurm": slurm, "kubernetes": kubernetes}


def _started(job: Job) -> str:
    return say("launch.same_file", run=job.run, machines=job.nodes, cards=job.each)


def _body(job: Job, first: str, host: str) -> str:
    """The shell's lines for one machine of the job: the first one, where `first` holds, plans the run."""
    if job.nodes == 1:  # train starts the processes of its own machine itself
        again = shlex.join(["python", "-m", "fromzero", "train", "--resume", job.run])
        return f"if [ -e {_exists(job)} ]; then exec {again}; fi\nexec {_train(job)}"
    return f"""if [ {first} ]; then
  [ -e {_exists(job)} ] || {_train(job)}
else
  until [ -e {_exists(job)} ]; do sleep 5; done
fi
exec {_torchrun_line(job, host)}"""


def _exists(job: Job) -> str:
    return shlex.quote(job.run + "/run.json")


def _train(job: Job) -> str:
    """Plans the run; with several machines it stops there."""
    shape = ["--cards", str(job.cards), "--nodes", str(job.nodes), "--output", job.run]
    return shlex.join(["python", "-m", "fromzero", "train", *job.words, *shape])


def _torchrun_line(job: Job, host: str) -> str:
    line = shlex.join(command(Path(job.run), job.nodes, job.each, "HOST", job.name))
    return line.replace("--rdzv-endpoint=HOST:", f'--rdzv-endpoint="{host}":', 1)


def _clock(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:00"


def words_of(given: Sequence[str]) -> tuple[str, ...]:
    """The words after `--`, checked: "train" and its own. Raises UsageError for what the job itself says."""
    words = tuple(given[1:] if given[:1] == ["--"] else given)
    if words[:1] != ("train",):
        raise UsageError("launch_train", words=shlex.join(words) or "-")
    own = [each for each in words if each.partition("=")[0] in ("--cards", "--nodes", "--output", "--resume")]
    if own:
        raise UsageError("launch_own_words", word=own[0])
    return words[1:]
