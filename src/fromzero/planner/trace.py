"""One step on `meta` tensors: which blocks of memory it takes and gives back, and what each operator costs.

No number is computed and no GPU is needed. A block is a tensor's storage: it is taken when an operator returns it and
given back when the last reference dies, as the interpreter and autograd would do it on a card.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fromzero.planner import rnn
from fromzero.planner.emulate import ANSWERS, cpu_choices, cuda_choices
from fromzero.planner.operators import Cost, channels_last, costs
from fromzero.planner.shortcuts import shortcut, tensors_in
from fromzero.planner.workspaces import CPU_WORKSPACES, CUDA_WORKSPACES


class Event(NamedTuple):
    """A block of `size` bytes is taken (sign +1) or given back (sign -1) during operator number `moment`."""

    sign: int
    block: int
    size: int
    moment: int = 0


class Moment(NamedTuple):
    """Where the step is: its phase, the module's path ("layer3.2.conv1", "" outside any) and the operator."""

    phase: str
    module: str
    operator: str


@dataclass(frozen=True, eq=False)  # compared by identity: what is computed from a trace is kept beside it
class Trace:
    """`events` of all steps in order; `parts[block]` says what a block is for; `costs` are those of the last step, when
    the optimizer's state exists."""

    events: tuple[Event, ...]
    parts: dict[int, str]
    costs: tuple[Cost, ...]
    batch: int
    moments: tuple[Moment, ...] = ()
    steps: tuple[int, ...] = ()  # the moment at which each step begins
    places: dict[int, str] = field(default_factory=dict)  # block of a weight or its state -> path of its module
    casts: frozenset[int] = frozenset()  # blocks that are copies of weights in autocast's precision
    units: tuple[str, ...] = ()  # paths of the repeated blocks of the network

    def live_peak(self) -> int:
        """The most bytes alive at once."""
        live = peak = 0
        for event in self.events:
            live += event.sign * event.size
            peak = max(peak, live)
        return peak


# A step is built with an engine and gives what to run, and what lives longer than a step: (part, tensors).
Owned = Callable[[], Iterable[tuple[str, Iterable[Tensor]]]]
BuildStep = Callable[["MetaEngine"], tuple[Callable[[], Any], Owned]]


def trace(
    build: BuildStep,
    *,
    batch: int,
    precision: str = "fp32",
    steps: int = 3,
    capability: tuple[int, int] | None = (8, 6),
    attention: str = "auto",
) -> Trace:
    """Run `steps` of the step that `build` makes, as a card of compute `capability` would (None: as a CPU would)."""
    extra = {**CUDA_WORKSPACES, **rnn.CUDA_WORKSPACES} if capability else {**CPU_WORKSPACES, **rnn.CPU_WORKSPACES}
    tracer = _Tracer(extra)
    begins = []
    with contextlib.ExitStack() as stack:
        autocast = stack.enter_context(cuda_choices(capability, attention) if capability else cpu_choices())
        engine = MetaEngine(precision, autocast, tracer)
        run, owned = build(engine)
        engine.owned = owned
        with tracer, tracer.following_modules(), _no_collection():
            tracer.own(owned())
            for _ in range(steps):
                begins.append(len(tracer.moments))
                tracer.costs.clear()
                tracer.phase = "forward"
                run()
                tracer.own(owned())
        places = engine.places()
    return Trace(
        tuple(tracer.events),
        tracer.parts,
        tuple(tracer.costs),
        batch,
        tuple(tracer.moments),
        tuple(begins),
        places,
        frozenset(tracer.casts),
        engine.units,
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Cycles are collected at moments of chance, and looking for them takes a quarter of a trace's time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class MetaEngine:
    """What a step needs of `engine.Engine`, for `meta` tensors: autocast, backward, clipping, the scaler."""

    def __init__(self, precision: str, autocast: Callable[[torch.dtype], Any], tracer: _Tracer) -> None:
        lower = {"amp-fp16": torch.float16, "amp-bf16": torch.bfloat16}.get(precision)
        self._lower, self._autocast, self._tracer = lower, autocast, tracer
        self._scaler = torch.amp.GradScaler("meta") if lower is torch.float16 else None
        self._unscaled = False
        self._model: torch.nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self.units: tuple[str, ...] = ()
        self.owned: Owned = lambda: ()

    def watch(self, model: torch.nn.Module, units: Iterable[str] = ()) -> None:
        """Attribute what happens to the modules of `model` by their paths; `units` are those of its repeated blocks."""
        self._model, self.units = model, tuple(units)
        self._tracer.paths = {id(module): path for path, module in model.named_modules()}

    def places(self) -> dict[int, str]:
        """The module of each block that lasts: weights, buffers and the optimizer's state."""
        found = {}
        states = self._optimizer.state if self._optimizer is not None else {}
        for name, tensor in [*self._model.named_parameters(), *self._model.named_buffers()] if self._model else ():
            kept = [each for each in states.get(tensor, {}).values() if isinstance(each, Tensor)]
            for each in (tensor, *kept):
                block = self._tracer.block_of(each)
                if block is not None:
                    found[block] = name.rpartition(".")[0]
        return found

    def no_sync(self, model: torch.nn.Module) -> Any:
        return contextlib.nullcontext()

    def autocast(self) -> Any:
        return self._autocast(self._lower) if self._lower else contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        self._tracer.phase = "backward"
        (self._scaler.scale(loss) if self._scaler else loss).backward()
        self._tracer.own(self.owned())
        self._tracer.phase = "forward"

    def clip_grad_norm_(self, parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        self._tracer.phase = "optimizer"
        self._unscale()
        # torch.nn.utils refuses its multi-tensor path on meta; these are the operators it calls on a card
        grads = [each.grad for each in parameters if each.grad is not None]
        total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        torch._foreach_mul_(grads, torch.clamp(max_norm / (total + 1e-6), max=1.0))
        return total

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> _MetaOptimizer:
        self._optimizer = optimizer
        return _MetaOptimizer(self, optimizer)

    def _unscale(self) -> None:
        if self._scaler and not self._unscaled:
            self._scaler.unscale_(self._optimizer)
            self._unscaled = True


class _MetaOptimizer:
    """The optimizer with the loss scaler in front of its step, as accelerate wraps it."""

    def __init__(self, engine: MetaEngine, optimizer: torch.optim.Optimizer) -> None:
        self._engine, self._optimizer = engine, optimizer

    def step(self) -> None:
        engine = self._engine
        engine._tracer.phase = "optimizer"
        if engine._scaler:
            engine._scaler.step(self._optimizer)
            engine._scaler.update()
            engine._unscaled = False
        else:
            self._optimizer.step()
        engine._tracer.own(engine.owned())

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._optimizer.zero_grad(set_to_none=set_to_none)


class _Tracer(TorchDispatchMode):
    """Sees every operator of the step; knows a storage by identity and hears of its death through a weak reference."""

    def __init__(self, workspaces: dict[str, Callable[[Any], int]]) -> None:
        super().__init__()
        self._workspaces = workspaces
        self.events: list[Event] = []
        self.costs: list[Cost] = []
        self.parts: dict[int, str] = {}
        self.moments: list[Moment] = []
        self.casts: set[int] = set()
        self.paths: dict[int, str] = {}
        self.phase = ""
        self._inside: list[str] = []  # the modules whose forward is running, innermost last
        self._made_in: dict[int, str] = {}  # sequence number of an autograd node -> the module that made it
        self._blocks: dict[int, tuple[Any, int]] = {}  # address of a storage object -> (weak reference, block)
        self._count = 0

    @contextlib.contextmanager
    def following_modules(self) -> Iterator[None]:
        def enter(module: Any, _: Any) -> None:
            self._inside.append(self.paths.get(id(module), ""))

        def leave(module: Any, *_: Any) -> None:
            self._inside.pop()

        entered = torch.nn.modules.module.register_module_forward_pre_hook(enter)
        left = torch.nn.modules.module.register_module_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            entered.remove()
            left.remove()

    def _module(self) -> str:
        """The module at work. In the backward pass nothing is called: there the autograd node tells, by the number
        it was given in the forward pass."""
        if self._inside:
            module = self._inside[-1]
            self._made_in.setdefault(torch._C._autograd._get_sequence_nr() - 1, module)
            return module
        node = torch._C._current_autograd_node()
        return self._made_in.get(node._sequence_nr(), "") if node is not None else ""

    def own(self, owned: Iterable[tuple[str, Iterable[Tensor]]]) -> None:
        """Say what blocks are for: each part's tensors, whether or not they were seen before."""
        for part, tensors in owned:
            for tensor in tensors:
                block = self._see(tensor)
                if block is not None:
                    self.parts[block] = part

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # in here `meta` tensors are what they are
            return self._dispatch(func, args, kwargs or {})

    def _dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func._schema.name.partition("::")[2]
        answer = _ANSWERS.get(name)
        self.moments.append(Moment(self.phase, self._module(), name))
        out = answer(func, args, kwargs) if answer else shortcut(name, args, kwargs)
        if out is NotImplemented:
            out = func(*args, **kwargs)
        for spent in costs(func, args, kwargs, out):
            self.costs.append(replace(spent, phase=self.phase))
        for each in tensors_in((out,)):
            block = self._see(each)
            if name == "_to_copy" and block and self.parts.get(self.block_of(args[0]) or 0) == "weights":
                self.casts.add(block)
        workspace = self._workspaces.get(name)
        if workspace is not None:
            self._pass(workspace(args))
        return out

    def _pass(self, size: int) -> None:
        """A block that an operator takes and gives back before it returns."""
        if size:
            self._count += 1
            self.parts[self._count] = "workspace"
            now = len(self.moments) - 1
            self.events += [Event(+1, self._count, size, now), Event(-1, self._count, size, now)]

    def block_of(self, tensor: Tensor) -> int | None:
        """The block of a tensor that was seen."""
        storage = tensor.untyped_storage()
        known = self._blocks.get(id(storage))
        return known[1] if known is not None and known[0]() is storage else None

    def _see(self, tensor: Tensor) -> int | None:
        """The block of a tensor's storage, taken now if it is new; None if it has no bytes on the card."""
        if not tensor.is_meta:
            return None
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        if not size:
            return None
        known = self.block_of(tensor)
        if known is not None:
            return known
        self._count += 1
        block = self._count

        def gone(_: Any) -> None:
            self.events.append(Event(-1, block, size, max(0, len(self.moments) - 1)))

        self._blocks[id(storage)] = (weakref.ref(storage, gone), block)
        self.parts[block] = "activations"
        self.events.append(Event(+1, block, size, max(0, len(self.moments) - 1)))
        return block


# Operators that have no kernel on `meta`, or whose CUDA kernel returns other tensors than the `meta` one.


def _convolution(func: Any, args: Any, kwargs: Any) -> Any:
    out = func(*args, **kwargs)
    strided = out.dim() == 4 and (channels_last(args[0]) or channels_last(args[1]))
    return torch.empty_like(out, memory_format=torch.channels_last) if strided else out


def _native_dropout(func: Any, args: Any, kwargs: Any) -> Any:
    return torch.empty_like(args[0]), torch.empty_like(args[0], dtype=torch.bool)


def _cudnn_batch_norm(func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, training = args[0], args[1], args[5]
    saved = weight.new_empty(weight.shape if training else (0,))
    return torch.empty_like(x), saved, torch.empty_like(saved), x.new_empty((0,), dtype=torch.uint8)


def _cudnn_batch_norm_backward(func: Any, args: Any, kwargs: Any) -> Any:
    return torch.empty_like(args[0]), torch.empty_like(args[2]), torch.empty_like(args[2])


def _scalar(func: Any, args: Any, kwargs: Any) -> Any:
    return 0.0 if args[0].is_meta else func(*args, **kwargs)  # a scaler's "found inf" must read 0


_ANSWERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    **ANSWERS,
    "convolution": _convolution,
    "native_dropout": _native_dropout,
    "cudnn_batch_norm": _cudnn_batch_norm,
    "cudnn_batch_norm_backward": _cudnn_batch_norm_backward,
    "_local_scalar_dense": _scalar,
    "_amp_foreach_non_finite_check_and_unscale_": lambda func, args, kwargs: None,
    "_amp_update_scale_": lambda func, args, kwargs: args[0],
}
