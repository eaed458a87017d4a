"""What a step runs on: one device, or this process's share of a job on many cards and machines.

A thin layer over `accelerate.Accelerator` (device, precision, the group of processes that torchrun started) and
PyTorch's own ways to divide a model: DistributedDataParallel and `fully_shard` (FSDP2; accelerate offers it on GPUs
only, and here the same code runs over gloo on CPUs), or `stages` for a model that is cut by its layers.

One process trains as if none of this were here: every method is then a plain call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from fromzero import checkpoint
from fromzero.errors import UsageError
from fromzero.models.layers import blocks
from fromzero.records import Recipe
from fromzero.stages import Staged, canonical
from fromzero.step import Batch, training_step

MIXED = {"fp32": "no", "tf32": "no", "amp-fp16": "fp16", "amp-bf16": "bf16"}
HALF = {"amp-fp16": torch.float16, "amp-bf16": torch.bfloat16}
# How long the others are waited for before a process calls them lost. The main process may scan data meanwhile.
PATIENCE_SECONDS = 1800.0
Tensors = dict[str, Tensor]


def start(recipe: Recipe, device: str) -> Engine:
    """Join the group that torchrun started (nccl on GPUs, gloo on CPUs), or stand alone. `device` is "cpu" or "cuda".
    Raises UsageError where the GPU is gone, or where the group cannot make up the recipe's number of cards."""
    on_cpu = device == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        raise UsageError("device_gone")
    torch.set_float32_matmul_precision("high" if recipe.precision == "tf32" else "highest")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # it refuses a second setting in a process
    patience = datetime.timedelta(seconds=float(os.environ.get("FROMZERO_PATIENCE", PATIENCE_SECONDS)))
    accelerator = accelerate.Accelerator(
        mixed_precision=MIXED[recipe.precision],
        cpu=on_cpu,
        kwargs_handlers=[accelerate.InitProcessGroupKwargs(timeout=patience)],
    )
    return Engine(accelerator, shared(recipe, accelerator.num_processes))


def is_main() -> bool:
    """Whether this process is the one that writes and speaks: asked before there is an engine."""
    return os.environ.get("RANK", "0") == "0"


def shared(recipe: Recipe, processes: int) -> Recipe:
    """The recipe as `processes` run it. A step is made of batch x accumulate x cards samples whoever computes them:
    with half the cards each accumulates twice as often, and the run goes on as it began."""
    if recipe.parallel == "pipeline" and processes > 1:
        if processes != recipe.cards:
            raise UsageError("pipeline_cards", cards=recipe.cards, processes=processes)
        return recipe
    if recipe.cards % processes:
        raise UsageError("cards_not_divisible", cards=recipe.cards, processes=processes)
    return dataclasses.replace(recipe, accumulate=recipe.accumulate * recipe.cards // processes, cards=processes)


class Engine:
    """`recipe` is what each process runs; `part` tells `training_batches` which rows are this one's."""

    def __init__(self, accelerator: accelerate.Accelerator, recipe: Recipe) -> None:
        self.accelerator, self.recipe = accelerator, recipe
        self.device: torch.device = accelerator.device
        self.process: int = accelerator.process_index
        self.processes: int = accelerator.num_processes
        self.norm: Tensor | None = None  # of the last step's gradients, not read from the device yet

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.process == 0

    @property
    def staged(self) -> bool:
        """Whether the processes hold one model between them and see the same rows."""
        return self.processes > 1 and self.recipe.parallel == "pipeline"

    @property
    def part(self) -> tuple[int, int]:
        return (0, 1) if self.staged else (self.process, self.processes)

    @property
    def scaler(self) -> Any:
        """The scaler of gradients in fp16, else None."""
        return self.accelerator.scaler

    def step(
        self,
        model: nn.Module,
        loss_of: Callable[[Tensor, Tensor], Tensor],
        optimizer: Any,
        batches: Sequence[Batch],
        recipe: Recipe,
        keep: list[Any] | None = None,
    ) -> Tensor:
        """`training_step`, or the same over the stages of a model; this process's loss, for `mean`."""
        if not isinstance(model, Staged):
            return training_step(self, model, loss_of, optimizer, batches, recipe, keep)
        optimizer.zero_grad(set_to_none=True)
        losses = [
            model.learn(inputs, targets, lambda o, t: loss_of(o, t) / len(batches)) for inputs, targets in batches
        ]
        model.share_tied()
        if recipe.clip:
            self._clip_stages(model, recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return torch.stack(losses).sum()

    # --- what a step asks for -----------------------------------------------------------------------------------------

    def autocast(self) -> Any:
        return self.accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip_grad_norm_(self, parameters: Iterable[Tensor], norm: float) -> Tensor:
        """The norm of all processes' gradients together, before they were clipped."""
        clip = nn.utils.clip_grad_norm_ if self.scaler is None else self.accelerator.clip_grad_norm_
        total = clip(parameters, norm)
        self.norm = _whole(total) if total is not None else torch.zeros((), device=self.device)
        return self.norm

    def _clip_stages(self, model: Staged, norm: float) -> None:
        grads = [each.grad for each in model.counted() if each.grad is not None]
        squares = torch.stack([each.double().square().sum() for each in grads]).sum()
        self.norm = self.total(squares).sqrt()
        share = torch.clamp(norm / (self.norm + 1e-6), max=1.0)
        for each in model.parameters():
            if each.grad is not None:
                each.grad.mul_(share.to(each.grad.dtype))

    def no_sync(self, model: nn.Module) -> Any:
        """For a micro-batch that is not the last of a step: gradients are exchanged once a step. Sharded models
        exchange them each time, since nobody has room for all of them."""
        return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else contextlib.nullcontext()

    # --- a model and its optimizer ------------------------------------------------------------------------------------

    def wrap(self, model: nn.Module, inputs: Tensor | None = None) -> nn.Module:
        """`model` on its device, as it learns; from here on only what this returns is asked. Comes before the optimizer
        is made: a divided model has other parameters. A model that is too large for one card must not be on it before.
        `inputs` is a batch of what the model takes, which the stages of a pipeline are cut for."""
        if self.processes == 1:
            return model.to(self.device)
        if self.staged:
            assert inputs is not None
            return Staged(model, inputs, self.process, self.processes, self.device, self.autocast)
        if self.recipe.parallel == "ddp":
            ids = [self.device.index] if self.device.type == "cuda" else None
            later = self.recipe.freeze == "gradual"  # what thaws later has no gradient yet
            return nn.parallel.DistributedDataParallel(
                model.to(self.device), device_ids=ids, find_unused_parameters=later
            )
        return self._sharded(model)

    def _sharded(self, model: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

        half, on_gpu = HALF.get(self.recipe.precision), self.device.type != "cpu"
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (self.processes,)),
            "reshard_after_forward": self.recipe.parallel == "fsdp",
            "mp_policy": MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32) if half else None,
            "offload_policy": CPUOffloadPolicy() if self.recipe.offload == "optimizer" and on_gpu else None,
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        for _, block in blocks(model):
            fully_shard(block, **settings)  # moves its part to the card
        sharded = fully_shard(model, **settings)
        for each in sharded.buffers():
            each.data = each.to(self.device)
        return sharded

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer as accelerate runs it: it skips a step whose fp16 gradients overflowed."""
        if self.recipe.offload == "optimizer" and not self.recipe.parallel.startswith("fsdp"):
            optimizer = HostOptimizer(optimizer)
        return optimizer if self.scaler is None else self.accelerator.prepare_optimizer(optimizer)

    # --- what the processes tell each other ---------------------------------------------------------------------------

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over what the processes saw, the same for all. In a pipeline only the last stage saw it."""
        if self.staged:
            return self.total(tensor)
        return self.accelerator.reduce(tensor, "mean") if self.processes > 1 else tensor

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""
        return self.accelerator.reduce(tensor, "sum") if self.processes > 1 else tensor

    def any(self, flag: bool) -> bool:
        """Whether one of them says so. All must ask in the same step: a decision by the clock or a signal is one
        process's own until it is shared."""
        return bool(self.total(torch.tensor(float(flag), device=self.device))) if self.processes > 1 else flag

    def wait(self) -> None:
        """Until all are here."""
        self.accelerator.wait_for_everyone()

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of rows that all answer together. All parts are equally long, since a sharded model
        answers only when all ask: the last row stands in for what is missing, and `gathered` drops it."""
        if self.part[1] == 1 or not len(rows):
            return rows
        each = -(-len(rows) // self.processes)
        padded = np.concatenate([rows, np.repeat(rows[-1:], each * self.processes - len(rows))])
        return padded[self.process * each : (self.process + 1) * each]

    def gathered(self, answers: np.ndarray, count: int) -> np.ndarray:
        """The answers to all `count` rows, in their order, for every process; `answers` are those to `share`."""
        if self.part[1] == 1:
            return answers
        mine = torch.from_numpy(np.ascontiguousarray(answers)).to(self.device)
        return self.accelerator.gather(mine)[:count].cpu().numpy()

    def agree(self, model: nn.Module) -> None:
        """The main process's buffers for all: each batch norm has seen its own process's samples only. Before a
        validation."""
        if self.part[1] > 1:
            for each in unwrapped(model).buffers():
                torch.distributed.broadcast(each, 0)

    def close(self) -> None:
        """Leave the group, together: who leaves first must not look like a crash to the others."""
        if torch.distributed.is_initialized():
            self.wait()
            torch.distributed.destroy_process_group()

    # --- the whole state ----------------------------------------------------------------------------------------------

    def tensors(self, model: nn.Module, optimizer: Any = None) -> dict[str, Tensors]:
        """{"model": ..., "optimizer": ...} in full, on the CPU, in the same layout whatever the number of cards; for
        the main process, empty for the others. All must ask. "optimizer" is keyed "<parameter>.<name>"."""
        found = {"model": self._collected(parts(model))}
        if self.staged and self.main:
            found["model"] = {name: found["model"][first] for name, first in _staged(model).canonical.items()}
        if optimizer is not None:
            found["optimizer"] = self._collected(packed(optimizer, model))
        return found

    def _collected(self, tensors: Tensors) -> Tensors:
        whole = {}
        for name, value in tensors.items():  # one at a time: nobody else holds more than one of them in full
            value = _whole(value.detach().to(self.device) if _is_sharded(value) else value)
            if self.main or self.staged:
                whole[name] = value.detach().cpu()
        return self._from_stages(whole) if self.staged else whole

    def _from_stages(self, mine: Tensors) -> Tensors:
        """Each stage sends its own, one tensor at a time, as numbers: nothing is pickled."""
        listed: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(listed, [(n, tuple(v.shape), v.dtype) for n, v in mine.items()])
        for stage in range(1, self.processes):
            for name, shape, dtype in listed[stage]:
                if self.process == stage:
                    torch.distributed.send(mine[name].to(self.device), 0)
                elif self.main:
                    there = torch.empty(shape, dtype=dtype, device=self.device)
                    torch.distributed.recv(there, stage)
                    mine[name] = there.cpu()
        return mine if self.main else {}

    @property
    def sharded(self) -> bool:
        """Whether each process writes its own part of a checkpoint: the whole may be too large for one."""
        return self.processes > 1 and self.recipe.parallel.startswith("fsdp") and _can_write_shards()

    def save(
        self, folder: Path, model: nn.Module, optimizer: Any, state: dict[str, Any], *, whole: bool, **more: Tensors
    ) -> None:
        """Write a checkpoint; all must ask. `more` are further groups of tensors that all processes hold alike. Not
        `whole`, a divided model is written as shards, which any number of processes can read."""
        if self.sharded and not whole:
            beside = folder.with_name(f"{folder.name}.shards")
            if self.main:
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
            self.wait()
            state_of = {**_prefixed("model", _once(model)), **_prefixed("optimizer", packed(optimizer, model))}
            _write_shards(beside, state_of)
            self.wait()
            if self.main:
                checkpoint.save(folder, more, state, shards=beside, spare=True)
                beside.rmdir()
        else:
            tensors = self.tensors(model, optimizer)
            if self.main:
                checkpoint.save(folder, {**tensors, **more}, state, spare=not whole)
        self.wait()

    def load(self, folder: Path, model: nn.Module, optimizer: Any) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """Put back what `save` wrote, however many processes wrote it; returns its further groups and the state."""
        tensors, state = checkpoint.load(folder)
        if "model" in tensors:
            self.fill(model, optimizer, tensors)
        elif (found := checkpoint.shards(folder)) is not None:
            _read_shards(found, model, optimizer)
        return tensors, state

    def fill(self, model: nn.Module, optimizer: Any, tensors: dict[str, Tensors]) -> None:
        """Put a full state back, each process its own share of it. Settings such as the learning rate come from the
        recipe, not from the file."""
        with torch.no_grad():
            for name, mine in parts(model).items():
                mine.copy_(_like(tensors["model"][name], mine))
        unpack(optimizer, model, tensors["optimizer"])


# --- the state of a model and an optimizer ----------------------------------------------------------------------------


def parts(model: nn.Module) -> Tensors:
    """What this process holds of a model's state, by name."""
    model = unwrapped(model)
    return model.named() if isinstance(model, Staged) else model.state_dict()


def _once(model: nn.Module) -> Tensors:
    """`parts`, each tensor under the first of its names only."""
    first = canonical(unwrapped(model))
    return {name: value for name, value in parts(model).items() if first[name] == name}


def packed(optimizer: Any, model: nn.Module) -> Tensors:
    """What this process holds of an optimizer's state, flat: "<parameter>.<name>"."""
    state = _inner(optimizer).state_dict()["state"]
    return {
        f"{of}.{name}": value
        for number, (of, _) in enumerate(_parameters(optimizer, model))
        for name, value in state.get(number, {}).items()
        if isinstance(value, Tensor)
    }


def unpack(optimizer: Any, model: nn.Module, tensors: Tensors) -> None:
    """Put packed tensors back, each divided as the parameter it belongs to."""
    places = {name: (number, each) for number, (name, each) in enumerate(_parameters(optimizer, model))}
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        of, _, name = key.rpartition(".")
        if of in places:  # else it is another stage's
            number, example = places[of]
            state.setdefault(number, {})[name] = _like(value, example) if value.shape == example.shape else value
    optimizer = _inner(optimizer)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _prefixed(group: str, tensors: Tensors) -> Tensors:
    return {f"{group}.{name}": value for name, value in tensors.items()}


def _can_write_shards() -> bool:
    """PyTorch writes shards as safetensors from 2.8 on."""
    import torch.distributed.checkpoint as sharding

    return hasattr(sharding, "HuggingFaceStorageWriter")


def _write_shards(folder: Path, tensors: Tensors) -> None:
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def _read_shards(folder: Path, model: nn.Module, optimizer: Any) -> None:
    """Each process reads of each tensor what it holds of it."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    reader = HuggingFaceStorageReader(str(folder))
    examples, found = dict(_parameters(optimizer, model)), {}
    for key, kept in reader.read_metadata().state_dict_metadata.items():
        group, _, name = key.partition(".")
        if group == "optimizer":
            like = examples[name.rpartition(".")[0]]
            found[name] = torch.zeros_like(like) if kept.size == like.shape else torch.zeros(kept.size)
    wanted = {**_prefixed("model", _once(model)), **_prefixed("optimizer", found)}
    with warnings.catch_warnings():  # a single process need not be told that it is one
        warnings.simplefilter("ignore", UserWarning)
        load(wanted, storage_reader=reader, no_dist=not torch.distributed.is_initialized())
    unpack(optimizer, model, found)


def _parameters(optimizer: Any, model: nn.Module) -> list[tuple[str, Tensor]]:
    """(name in the model, parameter) in the order in which the optimizer counts them."""
    model = unwrapped(model)
    learning = model.learning if isinstance(model, Staged) else model
    first = model.canonical if isinstance(model, Staged) else {}
    names = {id(each): first.get(name, name) for name, each in learning.named_parameters()}
    return [(names[id(each)], each) for group in _inner(optimizer).param_groups for each in group["params"]]


def _staged(model: nn.Module) -> Staged:
    assert isinstance(model, Staged)
    return model


class HostOptimizer(torch.optim.Optimizer):
    """An optimizer whose state and step are in the machine's memory: gradients go down, weights come up. Its state
    looks like that of `inner`, so that a run can go on without it."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        super().__init__([dict(group) for group in inner.param_groups], {})
        self._pairs: list[tuple[Tensor, Tensor]] = []
        for group in inner.param_groups:
            pairs = [(each, each.detach().cpu().clone().requires_grad_()) for each in group["params"]]
            group["params"] = [host for _, host in pairs]
            self._pairs += pairs
        self._fresh = False  # the weights may be loaded after this was made

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for ours, theirs in zip(self.param_groups, self.inner.param_groups, strict=True):
            theirs.update({name: value for name, value in ours.items() if name != "params"})
        for device, host in self._pairs:
            if not self._fresh:
                host.copy_(device)
            host.grad = None if device.grad is None else device.grad.to("cpu", copy=True)
        self._fresh = True
        self.inner.step()
        for device, host in self._pairs:
            device.copy_(host, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)
        self._fresh = False


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, with the names its weights are stored under."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper


def _is_sharded(value: Any) -> bool:
    return hasattr(value, "full_tensor")


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if _is_sharded(value) else value


def _like(value: Tensor, example: Any) -> Tensor:
    """`value`, which every process holds in full, divided as `example` is."""
    if not _is_sharded(example) or _is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    whole = value.to(example.device_mesh.device_type)
    return distribute_tensor(whole, example.device_mesh, example.placements, src_data_rank=None).to(example.device)
