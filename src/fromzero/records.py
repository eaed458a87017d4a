"""The nouns of fromzero: frozen records in SI units (bytes, seconds, FLOP/s, watts, hertz).

A plan is a config: `to_json(plan)` is what `fromzero plan -o plan.json` writes and `plan_from_json` is what
`fromzero train --plan plan.json` reads. The flags of `plan` and `train` come from the fields of `Recipe`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

PRECISIONS = ("fp32", "tf32", "amp-fp16", "amp-bf16", "fp16", "bf16")
OPTIMIZERS = ("sgd", "sgd-momentum", "adam", "adamw", "adagrad", "rmsprop", "adafactor", "adamw8bit")
SCHEDULES = ("cosine", "constant", "linear", "one-cycle", "step", "plateau")
INITS = ("default", "gaussian", "uniform", "xavier", "he", "orthogonal", "cooccurrence")
HEADS = ("linear", "mlp")
CLASS_WEIGHTS = ("none", "balanced", "effective")
SAMPLINGS = ("natural", "balanced", "sqrt")
ATTENTIONS = ("auto", "math", "efficient", "flash")
SELECTS = ("best", "last")
ZERO_GRADS = ("start", "before-backward", "after-step")
RESIZES = ("crop", "pad")
AUGMENTATIONS = ("auto", "none", "shift-flip", "rotate", "affine", "crop-flip", "colour", "randaugment", "erase")
MIXES = ("none", "mixup", "cutmix")
POLICIES = (*AUGMENTATIONS[1:], *MIXES[1:])  # what can be drawn of both
SPLITTINGS = ("stratified", "random", "grouped", "time", "kfold")
MEMORY_FORMATS = ("contiguous", "channels-last")
PARALLEL = ("ddp", "fsdp", "fsdp-grad-op", "pipeline")

Verdict = Literal["fits", "tight", "does_not_fit"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU (or this machine's CPU). `rates` are dense peaks in FLOP/s by precision: "fp32", "fp16-simt", "tf32",
    "fp16" and "bf16" (accumulated in fp32), "fp16-acc16", "int8", "fp8", "fp8-acc16", "fp4"; what the card lacks is
    absent. `usable_bytes` is what a process can really get. `source` says where the figures are from."""

    name: str
    variant: str = ""
    aliases: tuple[str, ...] = ()
    series: str = ""
    form: str = "desktop"
    architecture: str = ""
    compute_capability: str = ""
    memory_bytes: int = 0
    usable_bytes: int = 0
    bandwidth: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)
    sms: int = 0
    base_clock: float = 0.0
    boost_clock: float = 0.0
    l2_bytes: int = 0
    tdp_watts: float = 0.0
    launch: str = ""
    msrp: float | None = None
    source: str = ""
    notes: str = ""

    @property
    def title(self) -> str:
        """The name with its memory variant, as a person would write it."""
        return f"{self.name} {self.variant}".strip()

    @property
    def is_cpu(self) -> bool:
        return self.series == "cpu"

    @property
    def half(self) -> str | None:
        """The half precision it computes in by itself: bf16 before fp16; None where it would gain nothing."""
        return next((each for each in ("bf16", "fp16") if each in self.rates), None)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The software a plan is for. Empty means not known."""

    torch: str = ""
    cuda: str = ""
    driver: str = ""
    os: str = ""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is computed. `input_shape` is one sample without the batch, channels first: (channels, height, width) of
    pictures, (length,) of texts, (numbers,) of tables. `vocabulary` is how many tokens there are (0: the model's own),
    `categories` how many words each of a table's columns of words has."""

    task: str
    model: str
    input_shape: tuple[int, ...]
    classes: int
    samples: int = 0
    purpose: str = "train"
    vocabulary: int = 0
    categories: tuple[int, ...] = ()


def _flag(
    default: Any,
    choices: tuple[str, ...] | None = None,
    unit: type | None = None,
    limits: tuple[float, float] | None = None,
) -> Any:
    """A recipe field that is also a flag: its choices, the type of its value where None means "chosen for you", and
    the least and the greatest number it may be."""
    return field(
        default=default,
        metadata={"choices": choices, "unit": unit or type(default), "limits": limits},
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a workload is run. Each field is a flag of `plan` and `train`; its help is the catalogue's `recipe.<field>`.
    None for `batch` and `lr` means that the plan chooses and writes its choice down; `pretrained` is None (from
    scratch), "auto" (look in the known places) or a file of weights."""

    batch: int | None = _flag(None, unit=int)
    accumulate: int = _flag(1, limits=(1, inf))
    precision: str = _flag("fp32", PRECISIONS)
    optimizer: str = _flag("adamw", OPTIMIZERS)
    memory_format: str = _flag("contiguous", MEMORY_FORMATS)
    fused: bool = _flag(False)
    checkpointing: str = _flag("none")
    init: str = _flag("default", INITS)
    blocks: str = _flag("all")
    head: str = _flag("linear", HEADS)
    dropout: float | None = _flag(None, unit=float, limits=(0, 1))
    freeze: str = _flag("none")
    freeze_norms: bool = _flag(False)
    lora_rank: int = _flag(0, limits=(0, inf))
    lora_targets: str = _flag("all-linear")
    dora: bool = _flag(False)
    base_quantisation: str = _flag("none", ("none", "nf4"))
    ema: float = _flag(0.0, limits=(0, 1))
    offload: str = _flag("none", ("none", "optimizer"))
    compile: bool = _flag(False)
    cards: int = _flag(1, limits=(1, inf))
    nodes: int = _flag(1, limits=(1, inf))
    parallel: str = _flag("ddp", PARALLEL)
    pretrained: str | None = _flag(None, unit=str)
    linear_probe: bool = _flag(False)
    attention: str = _flag("auto", ATTENTIONS)
    zero_grad: str = _flag("after-step", ZERO_GRADS)
    keep_outputs: bool = _flag(False)
    epochs: int = _flag(10, limits=(1, inf))
    schedule: str = _flag("cosine", SCHEDULES)
    warmup: float = _flag(0.1, limits=(0, 1))
    lr: float | None = _flag(None, unit=float, limits=(0, inf))
    layer_decay: float = _flag(1.0, limits=(0, 1))
    weight_decay: float = _flag(0.05, limits=(0, inf))
    l1: float = _flag(0.0, limits=(0, inf))
    clip: float = _flag(1.0, limits=(0, inf))
    label_smoothing: float = _flag(0.0, limits=(0, 1))
    class_weights: str = _flag("none", CLASS_WEIGHTS)
    sampling: str = _flag("natural", SAMPLINGS)
    augmentation: str = _flag("auto", AUGMENTATIONS)
    mix: str = _flag("none", MIXES)
    teacher: str | None = _flag(None, unit=str)
    patience: int = _flag(10, limits=(1, inf))
    select: str = _flag("best", SELECTS)
    seed: int = _flag(0, limits=(0, inf))

    @property
    def filled(self) -> bool:
        """Whether a run's first weights are more than the seed says: then only its checkpoints know them."""
        return bool(self.pretrained) or self.init == "cooccurrence"

    @property
    def replicas(self) -> int:
        """Cards that see different samples: an optimizer step is of batch x accumulate x replicas."""
        return 1 if self.parallel == "pipeline" else self.cards


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak memory in bytes. `process_peak` is what the driver shows for the process; low and high bound it. `modules`
    are the ten that hold most at the moment of the peak, `peak_at` is that moment."""

    allocated_peak: int
    reserved_peak: int
    process_peak: int
    low: int
    high: int
    parts: Mapping[str, int]
    modules: Mapping[str, int] = field(default_factory=dict)
    peak_at: str = ""


@dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds of one optimizer step (or one forward pass), with an interval; `epoch` and `total` of the run.
    `correction` is the factor in them that this machine's own finished runs gave (1: there were none)."""

    step: float
    low: float
    high: float
    samples_per_second: float
    epoch: float
    total: float
    parts: Mapping[str, float]
    correction: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Electricity of the whole run; `cost` is None unless the user gave a tariff."""

    kwh: float
    cost: float | None = None
    currency: str = ""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One thing to do or to know; `saves` is the memory it would save, in bytes."""

    code: str
    text: str
    saves: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer to "will it fit, how long will it take?" for one workload, recipe and card. `max_batch` is set when
    the batch was left to the plan."""

    card: Card
    stack: Stack
    workload: Workload
    recipe: Recipe
    memory: Memory
    time: Time
    energy: Energy
    verdict: Verdict
    max_batch: int | None = None
    advice: tuple[Advice, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Option:
    """A change of recipe that makes a job fit. `keeps` says what becomes of the result: "same", "close" or "different";
    `changes` are the recipe's fields that differ, `saves` bytes of peak memory, `slower` the share of time added for
    the same effective batch."""

    keeps: str
    text: str
    changes: Mapping[str, Any]
    saves: int
    slower: float
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Money:
    """What the user said about prices: of a kWh, in which currency, on which day. None is ever made up."""

    tariff: float | None = None
    currency: str = ""
    priced_on: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A card (or several) for a job: its plan, whether it meets the user's limits and why, `hours` and `kwh` of the
    whole run, `cost` in the user's currency (None without a price) with its parts. `rescued` rows are changed recipes,
    tried because no card could do the job as asked; `keeps` says what becomes of the result, as in `Option`."""

    plan: Plan
    owned: bool
    meets: bool
    hours: float
    kwh: float
    cost: float | None
    costs: Mapping[str, float]
    keeps: str
    rescued: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Cards for a job, best first, and the answer in one sentence."""

    model: str
    candidates: tuple[Candidate, ...]
    answer: str
    money: Money
    limits: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the network's input, in training, evaluation, export and serving alike: upright, `channels`
    colours, then a square of `size` x `size` (antialiased bilinear; a picture of that size already is taken as it is),
    then (pixel / 255 - mean) / std for each channel. By `resize` the square is the middle of the picture, `crop` times
    its shorter side ("crop"), or the whole picture with white beside it ("pad", where `crop` is 1)."""

    size: int
    channels: int
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "crop"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """How a text becomes the network's input: the ids of its first `length` tokens, filled up with `padding`.
    `tokenizer` is the JSON of the `tokenizers` library, and stands in a file of its own beside the record. A language
    model writes `end` behind a text (-1: nothing), and was taught dialogues in the form of `template`: "" none,
    "plain" the project's own (`data.texts`), else the Jinja template that came with the tokenizer."""

    length: int
    vocabulary: int
    padding: int
    tokenizer: str = field(metadata={"file": "tokenizer.json"})
    end: int = -1
    template: str = ""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """How a row of a table becomes the network's input, float32 (numbers + words,): each column of `numbers` as
    (value - mean) / std, 0 where it is missing, followed by 1 where it is missing and 0 elsewhere for those in
    `flagged`; then each column of `words` as its word's place in the list, counted from 1; 0 is a word not seen in
    training, or none. With a `window` the input is (window, ...): the last rows of the same `group` up to this one in
    `time`, the oldest first, each with a 1 behind its numbers, and zeros after them."""

    numbers: tuple[tuple[str, float, float], ...]  # (name, mean, std)
    flagged: tuple[str, ...]
    words: tuple[tuple[str, tuple[str, ...]], ...]  # (name, words)
    window: int = 0
    group: str = ""
    time: str = ""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One class and its probability."""

    label: str
    score: float


def to_json(record: Any) -> Any:
    """A record (or a list or dict of them) as plain JSON values, fields in their declared order."""
    if record is None or isinstance(record, (str, int, float)):  # most values, so asked first
        return record
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {name: to_json(value) for name, value in vars(record).items()}
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(each) for each in record]
    return record


def from_json(kind: type, values: Mapping[str, Any]) -> Any:
    """A flat record of `kind` from its JSON; unknown keys are left out, lists become tuples."""
    names = {each.name for each in dataclasses.fields(kind)}
    return kind(**{name: _tuples(value) for name, value in values.items() if name in names})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def plan_from_json(values: Mapping[str, Any]) -> Plan:
    """The plan that `to_json` wrote."""
    nested = {
        "card": Card,
        "stack": Stack,
        "workload": Workload,
        "recipe": Recipe,
        "memory": Memory,
        "time": Time,
        "energy": Energy,
    }
    parts = {name: from_json(kind, values[name]) for name, kind in nested.items()}
    advice = tuple(from_json(Advice, each) for each in values.get("advice", ()))
    return Plan(**parts, verdict=values["verdict"], max_batch=values.get("max_batch"), advice=advice)
