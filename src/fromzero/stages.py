"""A model cut by its layers into stages, one on each card, for a model that is too large for one of them.

`torch.distributed.pipelining` does it: torch.export writes the model down as a graph, which is cut before chosen
blocks; the batch goes through in micro-batches, so that the cards work at the same time (the schedule "1F1B": one
forward, one backward). Each process builds the model in the machine's memory and puts its own stage on its card.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from fromzero.errors import UsageError
from fromzero.models.layers import blocks
from fromzero.planner.parallel import micro_batches, stage_starts


class Staged(nn.Module):
    """This process's stage of `model`, with the names its weights have in the whole. `inputs` is a batch (N, ...) of
    what the model takes; every later batch has its shape. Raises UsageError where the model has fewer blocks than
    there are stages, or torch.export cannot write it down."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        stage: int,
        stages: int,
        device: torch.device,
        autocast: Callable[[], Any],
    ) -> None:
        super().__init__()
        from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

        self.stage, self.stages, self.device, self.rows = stage, stages, device, len(inputs)
        self.micro = micro_batches(self.rows, stages)
        self.canonical = canonical(model)
        self._example = inputs[: self.rows // self.micro].to("meta")
        learning, self.tied = self._stage(model, autocast, train=True)
        self.learning = learning.submod
        asking, _ = self._stage(model, autocast, train=False, weights=self.learning)
        self._loss: Callable[[Tensor, Tensor], Tensor] | None = None
        self._learn = Schedule1F1B(learning, self.micro, loss_fn=self._micro_loss, scale_grads=False)
        self._ask = ScheduleGPipe(asking, self.micro)
        self._groups = [torch.distributed.new_group(sorted(each)) for each in self.tied]

    @property
    def first(self) -> bool:
        return self.stage == 0

    @property
    def last(self) -> bool:
        return self.stage == self.stages - 1

    def named(self) -> dict[str, Tensor]:
        """This stage's part of the model's state, under the first of each tensor's names."""
        kept = self.learning.state_dict()
        return {self.canonical[name]: value for name, value in kept.items() if name in self.canonical}

    def learn(self, inputs: Tensor, targets: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Gradients of a batch; its loss on the last stage, 0 on the others."""
        self._loss = loss_of
        losses: list[Tensor] = []
        given = (inputs,) if self.first else ()
        wanted: dict[str, Any] = {"target": targets, "losses": losses} if self.last else {}
        self._learn.step(*given, return_outputs=False, **wanted)
        self._loss = None
        return torch.stack(losses).sum().detach() if losses else torch.zeros((), device=self.device)

    def _micro_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        assert self._loss is not None
        return self._loss(outputs, targets) / self.micro

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs (N, ...) in evaluation mode, for every process; all must ask."""
        found = []
        with torch.no_grad():
            for part in inputs.split(self.rows):
                padded = torch.cat([part, part[-1:].expand(self.rows - len(part), *part.shape[1:])])
                outputs = self._ask.eval(*((padded,) if self.first else ()))
                found.append(_from_last(outputs if self.last else None, self.stages - 1, self.device)[: len(part)])
        return torch.cat(found)

    def share_tied(self) -> None:
        """Weights that two stages hold (an embedding that is also the output layer) learn from both."""
        for group, holders in zip(self._groups, self.tied, strict=True):
            if self.stage in holders:
                weight = self.learning.get_parameter(holders[self.stage])
                torch.distributed.all_reduce(weight.grad, group=group)

    def counted(self) -> list[nn.Parameter]:
        """The parameters whose gradients count here: of tied ones, those of the first stage that holds them."""
        twice = {each[self.stage] for each in self.tied if self.stage in each and min(each) != self.stage}
        return [value for name, value in self.learning.named_parameters() if name not in twice]

    def _stage(
        self, model: nn.Module, autocast: Callable[[], Any], train: bool, weights: nn.Module | None = None
    ) -> tuple[Any, list[dict[int, str]]]:
        """This process's stage, traced in training or evaluation mode (what dropout does is part of the graph), with
        real weights: the model's, or those of a stage that has them."""
        from torch.distributed.pipelining import pipeline

        hollow = _hollow(model).train(train)
        cuts = _cuts(model, self.stages)
        with _said(type(model).__name__):
            pipe = pipeline(hollow, mb_args=(self._example,), split_spec=cuts)
        module = pipe.get_stage_module(self.stage)
        source: Any = weights or model
        for name, old in [*module.named_parameters(remove_duplicate=False)]:
            value = source.get_parameter(name)
            if weights is None:
                value = nn.Parameter(value.detach().to(self.device), requires_grad=old.requires_grad)
            _put(module, name, value)
        for name, _ in [*module.named_buffers(remove_duplicate=False)]:
            _put(module, name, source.get_buffer(name).to(self.device))
        numbers = {name: number for number, (name, _) in enumerate(pipe.split_gm.named_children())}
        tied = [{numbers[stage]: name for stage, name in each.items()} for each in pipe.replicated_params]
        stage = pipe.build_stage(self.stage, self.device)  # which writes the graph's code anew, for the device
        module.forward = _in_precision(module.forward, autocast)
        return stage, tied


def canonical(model: nn.Module) -> dict[str, str]:
    """Each name in the model's state and the first name of the same tensor."""
    first: dict[int, str] = {}
    kept = model.state_dict(keep_vars=True)
    return {name: first.setdefault(id(value), name) for name, value in kept.items()}


def _cuts(model: nn.Module, stages: int) -> dict[str, Any]:
    """The blocks that begin a stage, so that each stage has about as many weights."""
    from torch.distributed.pipelining import SplitPoint

    found = blocks(model)
    if len(found) < stages:
        raise UsageError("too_few_blocks", blocks=len(found), cards=stages)
    sizes = [sum(each.numel() for each in block.parameters()) for _, block in found]
    return {found[at][0]: SplitPoint.BEGINNING for at in stage_starts(sizes, stages)}


def _hollow(model: nn.Module) -> nn.Module:
    """A copy of `model` without numbers."""
    tensors = {id(each): each for each in itertools.chain(model.parameters(), model.buffers())}
    memo: dict[int, Any] = {}
    for key, each in tensors.items():
        empty = each.detach().to("meta")
        memo[key] = nn.Parameter(empty, each.requires_grad) if isinstance(each, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


@contextlib.contextmanager
def _said(model: str) -> Any:
    try:
        yield
    except RuntimeError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise UsageError("not_cut", model=model, reason=reason) from error


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, value)


def _in_precision(forward: Callable[..., Any], autocast: Callable[[], Any]) -> Callable[..., Any]:
    """`forward` in the recipe's precision; what passes between cards is what the graph was written with."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with autocast():
            outputs = forward(*args, **kwargs)
        if isinstance(outputs, Tensor):
            return _single(outputs)
        return type(outputs)(_single(each) for each in outputs)

    return run


def _single(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _from_last(outputs: Tensor | None, last: int, device: torch.device) -> Tensor:
    """The last stage's outputs, for all."""
    told: Sequence[Any] = [None if outputs is None else (tuple(outputs.shape), outputs.dtype)]
    torch.distributed.broadcast_object_list(told, last)
    shape, dtype = told[0]
    whole = torch.empty(shape, dtype=dtype, device=device) if outputs is None else outputs.contiguous()
    torch.distributed.broadcast(whole, last)
    return whole
