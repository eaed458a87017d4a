"""The oracle: a training step on fake CUDA tensors, whose operators decompose and whose autocast works as on a card.

It needs a Linux build of PyTorch with CUDA, but no GPU. Backward on fake CUDA tensors asks a C++ object whether a
device exists; one entry of that object's table of functions is replaced, which is private to PyTorch and may break with
any release. It changes torch for the whole process, so it runs in one of its own: `peaks(cases)` starts it. Called
without arguments, this file compares the whole matrix of models, precisions, optimizers and layouts (half an hour).

What it does not decide for itself is which attention kernel runs (PyTorch asks the driver): that comes from
`fromzero.planner.emulate.attention_backend`, and how the kernel is called is written here once more. Recurrent layers
ask cuDNN itself, so there are none here. And without a driver PyTorch believes that cuDNN has no convolutions in bf16,
so in bf16 with channels last the gradients of 3x3 weights come out contiguous and are copied once: a card does not.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CAPABILITY = (8, 6)


@dataclass(frozen=True)
class Case:
    """One training step: `model` is a key of MODELS."""

    model: str
    precision: str = "fp32"
    optimizer: str = "adamw"
    channels_last: bool = False
    extra: str = ""  # "clip" or "accumulate"

    def __str__(self) -> str:
        marks = [self.model, self.precision, self.optimizer, "channels-last" * self.channels_last, self.extra]
        return " ".join(filter(None, marks))


def no_oracle() -> str:
    """Why this machine has no oracle; empty if it has one."""
    if sys.platform != "linux":
        return "the oracle knows only Linux's C++ ABI"
    if not torch.backends.cuda.is_built():
        return "this PyTorch is built without CUDA: it has no autocast policy and no operators of CUDA to compare with"
    if torch.cuda.is_available():
        return "a real card is here: the fake one would get in its way"
    return ""


def peaks(cases: list[Case]) -> list[dict[str, Any]]:
    """{"peak": bytes, "error": text} of each case on fake CUDA tensors, in a process of its own."""
    asked = json.dumps([dataclasses.asdict(each) for each in cases])
    command = [sys.executable, __file__, "--serve"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, timeout=3600)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


# --- models ---------------------------------------------------------------------------------------------------------

TOKENS = 250  # vocabulary of the small language models


def _timm(name: str, size: int = 64, batch: int = 4, **settings: Any) -> tuple[Callable[[], nn.Module], Any]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=10, **settings)

    return make, _pictures(batch, size)


def _torchvision(name: str, size: int = 64, batch: int = 4, **settings: Any) -> tuple[Callable[[], nn.Module], Any]:
    def make() -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, num_classes=10, **settings)

    return make, _pictures(batch, size)


def _own(name: str, inputs: Any) -> tuple[Callable[[], nn.Module], Any]:
    def make() -> nn.Module:
        from fromzero.models.build import build

        return build(name, 10, 3, 32)

    return make, inputs


def _transformers(kind: str, length: int = 48, batch: int = 2, **settings: Any) -> tuple[Callable[[], nn.Module], Any]:
    def make() -> nn.Module:
        import transformers

        config = transformers.CONFIG_MAPPING[kind](vocab_size=TOKENS, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                                                   **settings)  # fmt: skip
        causal = kind in ("gpt2", "llama", "qwen2", "gemma2")
        auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
        return auto.from_config(config)

    causal = kind in ("gpt2", "llama", "qwen2", "gemma2")
    return make, _tokens(batch, length, causal)


def _pictures(batch: int, size: int) -> Callable[[str], tuple[Tensor, Tensor]]:
    return lambda device: (
        torch.empty((batch, 3, size, size), device=device),
        torch.zeros(batch, dtype=torch.long, device=device),
    )


def _tokens(batch: int, length: int, causal: bool) -> Callable[[str], tuple[Tensor, Tensor]]:
    def make(device: str) -> tuple[Tensor, Tensor]:
        tokens = torch.zeros((batch, length), dtype=torch.long, device=device)
        return tokens, tokens if causal else torch.zeros(batch, dtype=torch.long, device=device)

    return make


class OwnAutocast(nn.Module):
    """User code that asks for autocast itself, switches it off for a region, and asks where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((1, 2))
        with torch.autocast("cuda", torch.bfloat16):
            x = self.first(x)
        with torch.cuda.amp.autocast(dtype=torch.float16):
            x = self.second(torch.relu(x.float()))
        with torch.autocast(device_type="cuda", enabled=False):
            x = self.third(x.float())
        if torch.is_autocast_enabled("cuda"):
            x = x + torch.mm(x, x.t()).sum()
        return x


class Island(nn.Module):
    """A fp32 island in autocast, decorated and device-dependent, as detection and diffusion models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU())
        self.norm = nn.GroupNorm(4, 32)
        self.head = nn.Linear(32, 10)

    @torch.autocast("cuda", enabled=False)
    def normal(self, x: Tensor) -> Tensor:
        return self.norm(x.float()) * x.float().std((2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normal(self.body(x))
        with torch.autocast(x.device.type, enabled=False):
            x = x @ x.transpose(2, 3)
        return self.head(x.mean((2, 3)))


class Checkpointed(nn.Module):
    """Activation checkpointing with dropout inside."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.GELU(), nn.Dropout(0.1),
                nn.Conv2d(64, 32, 3, padding=1), nn.GELU(),
            )
            for _ in range(4)
        )  # fmt: skip
        self.head = nn.Linear(32, 10)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x.mean((2, 3)))


class Attends(nn.Module):
    """A decoder block of its own, to reach the branches of attention."""

    def __init__(self, kv_heads: int = 4, head: int = 16, mask: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head, self.mask, self.dropout = 4, kv_heads, head, mask, dropout
        self.embed = nn.Linear(64, 4 * head)
        self.q, self.kv = nn.Linear(4 * head, 4 * head), nn.Linear(4 * head, 2 * kv_heads * head)
        self.out, self.norm = nn.Linear(4 * head, 10), nn.RMSNorm(4 * head)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x.mean(1)))
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, self.heads, self.head).transpose(1, 2)
        k, v = self.kv(x).view(batch, length, 2 * self.kv_heads, self.head).transpose(1, 2).chunk(2, 1)
        mask = torch.ones((batch, 1, length, length), dtype=torch.bool, device=x.device) if self.mask else None
        x = nn.functional.scaled_dot_product_attention(
            q, k, v, mask, self.dropout, is_causal=mask is None, enable_gqa=self.kv_heads != self.heads
        )
        return self.out(x.transpose(1, 2).flatten(2).mean(1))


def _checkpointing(kind: str, reentrant: bool, **settings: Any) -> tuple[Callable[[], nn.Module], Any]:
    make, inputs = _transformers(kind, **settings)

    def enabled() -> nn.Module:
        model = make()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        return model

    return enabled, inputs


def _timm_checkpointing(name: str, **settings: Any) -> tuple[Callable[[], nn.Module], Any]:
    make, inputs = _timm(name, **settings)

    def enabled() -> nn.Module:
        model = make()
        model.set_grad_checkpointing()
        return model

    return enabled, inputs


_BERT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_LLAMA = {**_BERT, "num_key_value_heads": 2}
_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4}
_PICTURES = _pictures(4, 64)

MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "cnn": _own("cnn", _pictures(8, 32)),
    "resnet": _timm("resnet10t"),
    "resnet-bottleneck": _timm("resnet14t"),
    "regnet": _timm("regnety_002"),
    "mobilenet": _timm("mobilenetv3_small_050"),
    "efficientnet": _timm("efficientnet_b0", batch=2),
    "densenet": _torchvision("densenet121", batch=2),
    "vgg": _torchvision("vgg11_bn", batch=2),
    "alexnet": _torchvision("alexnet", size=128),
    "googlenet": _torchvision("googlenet", aux_logits=False, init_weights=False),
    "shufflenet": _torchvision("shufflenet_v2_x0_5"),
    "squeezenet": _torchvision("squeezenet1_1"),
    "mnasnet": _torchvision("mnasnet0_5"),
    "convnext": _timm("convnext_atto"),
    "vit": _timm("vit_tiny_patch16_224", img_size=64, drop_rate=0.1),
    "vit-drop-path": _timm("deit_tiny_patch16_224", img_size=64, drop_path_rate=0.1, depth=4),
    "swin": _timm("swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1, 2, 1), embed_dim=24,
                  num_heads=(1, 2, 4, 8), batch=2),
    "mixer": _timm("mixer_s32_224", img_size=64),
    "maxvit": _timm("maxvit_nano_rw_256", img_size=64, batch=2),
    "coat": _timm("coat_tiny", img_size=64, batch=2),
    "bert": _transformers("bert", **_BERT),
    "distilbert": _transformers("distilbert", dim=64, n_layers=2, n_heads=4, hidden_dim=128),
    "roberta": _transformers("roberta", **_BERT),
    "gpt2": _transformers("gpt2", **_GPT),
    "llama": _transformers("llama", **_LLAMA),
    "qwen2": _transformers("qwen2", **_LLAMA),
    "own-autocast": (OwnAutocast, _PICTURES),
    "island": (Island, _PICTURES),
    "checkpoint": (lambda: Checkpointed(False), _PICTURES),
    "checkpoint-reentrant": (lambda: Checkpointed(True), _PICTURES),
    "vit-checkpoint": _timm_checkpointing("vit_tiny_patch16_224", img_size=64),
    "resnet-checkpoint": _timm_checkpointing("resnet14t"),
    "gpt2-checkpoint": _checkpointing("gpt2", False, **_GPT),
    "llama-checkpoint-reentrant": _checkpointing("llama", True, **_LLAMA),
    "fused": _own("cnn", _pictures(8, 32)),
    "rms-norm": (Attends, _PICTURES),
    "attention-grouped": (lambda: Attends(kv_heads=2), _PICTURES),
    "attention-odd-head": (lambda: Attends(head=13), _PICTURES),
    "attention-wide-head": (lambda: Attends(head=288), _PICTURES),
    "attention-mask": (lambda: Attends(mask=True), _PICTURES),
    "attention-mask-grouped": (lambda: Attends(kv_heads=1, mask=True, dropout=0.1), _PICTURES),
}  # fmt: skip


def step(case: Case, device: str, engine: Any, model: nn.Module) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What to run, and the tensors that outlive a step: the very `training_step` that training runs."""
    from fromzero.records import Recipe
    from fromzero.step import make_optimizer, training_step

    half = HALF.get(case.precision)
    recipe = Recipe(
        precision=case.precision,
        optimizer=case.optimizer.removeprefix("fused-"),
        lr=1e-3,
        clip=1.0 if case.extra == "clip" else 0.0,
        accumulate=2 if case.extra == "accumulate" else 1,
    )
    model.train()
    fused = {"fused-adamw": torch.optim.AdamW, "fused-sgd": torch.optim.SGD}.get(case.optimizer)
    plain = fused(model.parameters(), fused=True) if fused else make_optimizer(model, recipe)
    optimizer = engine.prepare_optimizer(plain)

    def batch() -> tuple[Tensor, Tensor]:
        inputs, targets = MODELS[case.model][1](device)
        if half and inputs.is_floating_point():
            inputs = inputs.to(half)
        if case.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, targets

    def run() -> None:
        training_step(engine, model, _loss, optimizer, [batch() for _ in range(recipe.accumulate)], recipe)

    def owned() -> Any:
        yield "weights", [*model.parameters(), *model.buffers()]
        yield "gradients", [each.grad for each in model.parameters() if each.grad is not None]
        yield "optimizer", [t for s in plain.state.values() for t in s.values() if isinstance(t, Tensor)]

    return run, owned


def _loss(outputs: Any, targets: Tensor) -> Tensor:
    logits = getattr(outputs, "logits", outputs).float()
    return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def built(case: Case) -> nn.Module:
    """The model without numbers."""
    try:
        with torch.device("meta"):
            model = MODELS[case.model][0]()
    except (RuntimeError, NotImplementedError):  # it reads numbers while it is built
        model = MODELS[case.model][0]().to("meta")
    model = model.to(HALF.get(case.precision, torch.float32))
    return model.to(memory_format=torch.channels_last) if case.channels_last else model


# --- the portable trace ---------------------------------------------------------------------------------------------


def traced_peak(case: Case, capability: tuple[int, int] = CAPABILITY) -> int:
    """Live peak of three steps by `fromzero.planner.trace`, without library workspaces, which the oracle cannot see."""
    from fromzero.planner.trace import trace

    found = trace(
        lambda engine: step(case, "meta", engine, built(case)),
        batch=1, precision=case.precision, capability=capability,
    )  # fmt: skip
    live = most = 0
    for event in found.events:
        if found.parts[event.block] != "workspace":
            live += event.sign * event.size
            most = max(most, live)
    return most


# --- fake CUDA ------------------------------------------------------------------------------------------------------

_alive: list[Any] = []


def _pretend_a_card() -> None:
    """Patch C++ and Python until autograd, autocast and the gradient scaler believe in a CUDA device."""
    library = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
    hooks = library._ZN2at6detail12getCUDAHooksEv
    hooks.restype = ctypes.c_void_p
    table = ctypes.cast(hooks(), ctypes.POINTER(ctypes.c_void_p))
    width, entries = ctypes.sizeof(ctypes.c_void_p), 128
    copy = (ctypes.c_void_p * (entries + 2))()
    ctypes.memmove(copy, table[0] - 2 * width, (entries + 2) * width)
    answer = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda self, index: False)
    copy[2 + _entry("hasPrimaryContext")] = ctypes.cast(answer, ctypes.c_void_p).value
    _alive.extend([copy, answer, library])
    table[0] = ctypes.addressof(copy) + 2 * width
    torch._C._ensureCUDADeviceGuardSet()

    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.cuda.amp import common

    FakeTensorMode.avoid_device_init = property(lambda self: True)
    FakeTensorMode.__deepcopy__ = lambda self, memo: self
    cuda = torch.cuda
    cuda.is_available = lambda: True
    cuda.is_bf16_supported = lambda *args, **kwargs: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.get_device_capability = lambda *args: CAPABILITY
    cuda._lazy_init = lambda: None
    cuda.synchronize = lambda *args: None
    cuda.get_rng_state = lambda *args: torch.empty(16, dtype=torch.uint8, device="cpu")
    cuda.set_rng_state = lambda *args: None
    common.amp_definitely_not_available = lambda: False
    torch.nn.functional.scaled_dot_product_attention = _attention


def _entry(name: str) -> int:
    """The place of a virtual function in its table, read from the header that comes with PyTorch."""
    header = os.path.join(os.path.dirname(torch.__file__), "include", "ATen", "detail", "AcceleratorHooksInterface.h")
    with open(header, encoding="utf-8") as file:
        functions = re.findall(r"virtual\s+[^;{(]*?([~\w]+)\s*\(", file.read())
    place = 0
    for each in functions:
        if each == name:
            return place
        place += 2 if each.startswith("~") else 1  # a destructor takes two places
    raise LookupError(name)


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):  # type: ignore
    from fromzero.planner.emulate import attention_backend

    aten = torch.ops.aten
    if torch.is_autocast_enabled("cuda"):
        lower = torch.get_autocast_dtype("cuda")
        q, k, v = (each.to(lower) for each in (q, k, v))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(lower)
    with torch.autocast("cuda", enabled=False):
        backend = attention_backend(q, k, v, attn_mask, dropout_p, is_causal, enable_gqa, CAPABILITY)
        if backend == "math":
            return aten._scaled_dot_product_attention_math(
                q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )[0]
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, 0.0, torch.empty((), dtype=q.dtype, device=q.device))
        if backend == "flash":
            head = q.size(-1)
            q, k, v = (nn.functional.pad(each, (0, -head % 8)) if head % 8 else each for each in (q, k, v))
            out = aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]
            return out[..., :head] if head % 8 else out
        if attn_mask is not None:
            length = attn_mask.size(-1)
            if any(each % 8 for each in attn_mask.stride()[:-1]):
                attn_mask = nn.functional.pad(attn_mask, (0, 8 - length % 8))[..., :length]
            attn_mask = attn_mask.expand(q.size(0), q.size(1), q.size(2), length)
        needs_grad = torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v))
        return aten._scaled_dot_product_efficient_attention(
            q, k, v, attn_mask, needs_grad, dropout_p, is_causal, scale=scale
        )[0]


class _Engine:
    """What `accelerate.Accelerator` does for a step on a card."""

    def no_sync(self, model):
        return contextlib.nullcontext()

    def __init__(self, precision: str) -> None:
        self._lower = {"amp-fp16": torch.float16, "amp-bf16": torch.bfloat16}.get(precision)
        self._scaler = torch.amp.GradScaler("cuda") if self._lower is torch.float16 else None
        self._unscaled = False

    def autocast(self) -> Any:
        return torch.autocast("cuda", self._lower) if self._lower else contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        (self._scaler.scale(loss) if self._scaler else loss).backward()

    def clip_grad_norm_(self, parameters: Any, norm: float) -> Tensor:
        if self._scaler:
            self._scaler.unscale_(self._optimizer)
        return nn.utils.clip_grad_norm_(parameters, norm, foreach=True)

    def prepare_optimizer(self, optimizer: Any) -> Any:
        self._optimizer = optimizer
        return self

    def step(self) -> None:
        if self._scaler:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._optimizer.zero_grad(set_to_none=set_to_none)


class _Counter(TorchDispatchMode):
    """Bytes of CUDA storages alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: dict[int, Any] = {}

    def see(self, tensor: Tensor) -> None:
        if tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        size, known = storage.nbytes(), self.known.get(id(storage))
        if not size or (known is not None and known() is storage):
            return

        def gone(_: Any) -> None:
            self.live -= size

        self.known[id(storage)] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name == "_local_scalar_dense":
            return float(args[0].device.type == "cpu")  # an optimizer's count of steps, or a scaler's "found inf"
        out = None if name.startswith("_fused_") and name.endswith("_") else func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor):
                self.see(each)
        return out


def fake_cuda_peak(case: Case) -> int:
    """Live peak of three steps on fake CUDA tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = built(case)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _to_cuda(model)
        with _Counter() as counter:
            run, owned = step(case, "cuda", _Engine(case.precision), model)
            for _ in range(3):
                for _, tensors in owned():
                    for each in tensors:
                        counter.see(each)
                run()
    return counter.peak


def _to_cuda(model: nn.Module) -> None:
    """Give every parameter and buffer a fake CUDA tensor; tied ones stay tied."""
    new: dict[int, Tensor] = {}

    def moved(old: Tensor) -> Tensor:
        if id(old) not in new:
            made = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device="cuda")
            new[id(old)] = nn.Parameter(made, old.requires_grad) if isinstance(old, nn.Parameter) else made
        return new[id(old)]

    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, old in table.items():
                if old is not None:
                    table[name] = moved(old)


PRECISIONS = ("fp32", "amp-fp16", "amp-bf16", "bf16")
_OWN_PRECISION = ("own-autocast",)  # it mixes types itself, which a model in bf16 cannot take


def matrix() -> list[Case]:
    """Every model x precision x optimizer, and channels last where there are convolutions."""
    with_convolutions = [each for each in MODELS if any(isinstance(m, nn.Conv2d) for m in built(Case(each)).modules())]
    return [
        Case(model, precision, optimizer, layout)
        for model in MODELS
        for precision in PRECISIONS
        for optimizer in ("sgd-momentum", "adamw")
        for layout in (False, True)[: 1 + (model in with_convolutions)]
        if not (precision == "bf16" and model in _OWN_PRECISION)
    ]


def report(wanted: list[Case]) -> None:
    """Print every case that differs, and how many there were."""
    worst, differ = 0.0, 0
    for place in range(0, len(wanted), 40):
        part = wanted[place : place + 40]
        for case, answer in zip(part, peaks(part), strict=True):
            if answer["error"]:
                print(f"{case}: {answer['error']}", flush=True)
                differ += 1
                continue
            off = traced_peak(case) - answer["peak"]
            worst = max(worst, abs(off) / answer["peak"])
            if off:
                differ += 1
                print(f"{case}: {off:+,} bytes, {off / answer['peak']:+.3%}", flush=True)
    print(f"{len(wanted)} cases, {differ} differ, worst {worst:.3%}")


def serve() -> None:
    """Answer the cases on standard input: what `peaks` starts."""
    wanted = [Case(**each) for each in json.load(sys.stdin)]
    _pretend_a_card()
    answers = []
    for case in wanted:
        try:
            answers.append({"peak": fake_cuda_peak(case), "error": ""})
        except Exception as error:
            answers.append({"peak": 0, "error": f"{type(error).__name__}: {error}"[:300]})
    print(json.dumps(answers), flush=True)
    os._exit(0)  # threads of the pretended card bring down an ordinary exit now and then


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else report(matrix())
