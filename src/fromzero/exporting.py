"""export(): writes an artifact, then proves that it answers as the model does; otherwise nothing is left.

An artifact is a folder: the model file and `artifact.json` with task, labels, preprocessing (a tokenizer in a file of
its own), checksums, parity and the run it came from.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fromzero import formats, preprocessing, tasks
from fromzero.data import pack, tabular
from fromzero.data.inputs import prepared
from fromzero.data.manifest import Manifest
from fromzero.data.rows.content import content, texts
from fromzero.errors import FromzeroError, ParityError, RunError, UnknownName
from fromzero.files import disk_error, write_json
from fromzero.language import say
from fromzero.predicting import opened
from fromzero.records import Columns, to_json
from fromzero.runs import Run
from fromzero.runtimes import Classifier
from fromzero.runtimes._artifact import DESCRIPTION, digest
from fromzero.runtimes.torch_runtime import open_model
from fromzero.training import data_of

SAMPLES = 500  # that parity is proved on
BATCH = 64
LOGITS = 1 << 23  # of a language model's batch, 32 MB
LEAST = 1e-30  # below this a probability has no logit worth comparing


@dataclass(frozen=True)
class Limits:
    """How far an artifact may answer otherwise than its model: the share of samples with the same first class, and
    the largest difference of a probability, and of a logit measured by the largest there is."""

    agreement: float
    probability: float = 1.0
    logit: float = float("inf")


LIMITS = {
    "float": Limits(0.999, 1e-3, 1e-3),  # fp32 kernels differ by about 1e-6
    "tf32": Limits(0.999, 2e-2),  # ten bits of mantissa in the products of an NVIDIA card
    "int8": Limits(0.98),  # what is lost in accuracy is measured where it is made (shrink)
}


@dataclass(frozen=True)
class Parity:
    """The same real samples, each from what a user hands in, through model and artifact with the preprocessing that
    each carries. `max_logit_difference` is of logits less their mean, which softmax does not see; `agreement_limit` is
    what was asked of `agreement`. Of a language model every token counts as a sample."""

    samples: int
    agreement: float
    max_difference: float
    max_logit_difference: float
    agreement_limit: float


@dataclass(frozen=True)
class Artifact:
    """A folder that `serve` and `predict` take."""

    path: Path
    format: str
    file: str
    parity: Parity


def export(run: Path | str, format: str = "onnx", output: Path | str | None = None) -> Artifact:
    """Write the run's best model as an artifact (default: `<run>/artifact-<format>`, replaced if it is there). Raises
    ParityError, and leaves nothing, if the artifact disagrees with the model on real samples of the run's data."""
    source = Run(Path(run))
    writer = writer_of(format)
    target = Path(output) if output else source.path / f"artifact-{format}"
    if target.exists() and not (target / DESCRIPTION).is_file():
        raise RunError("not_an_artifact", path=target)
    task = source.plan().workload.task
    if task not in writer.TASKS:
        raise FromzeroError("format_without_task", format=format, task=task, formats=", ".join(_holding(task)))
    original = open_model(source.path, "cpu")
    with _beside(target) as folder:
        how = preprocessing.write(folder, original.preprocessing)
        file = writer.write(original.module, original.preprocessing, original.labels, folder)
        about: dict[str, Any] = {
            "format": format,
            "model": original.name,
            "task": task,
            "file": file,
            "labels": original.labels,
            "preprocessing": how,
            "sha256": {each.name: digest(each) for each in sorted(folder.iterdir()) if each.is_file()},
            "run": source.path.resolve().name,  # images are given away: no path of this machine
            "versions": _versions(*writer.PACKAGES),
        }
        write_json(folder / DESCRIPTION, to_json(about))
        parity = _compared(source, original, opened(folder), LIMITS[writer.LIMITS])
        write_json(folder / DESCRIPTION, to_json({**about, "parity": parity}))
    return Artifact(target, format, file, parity)


def prove(run: Path | str, artifact: Path | str, limits: Limits = LIMITS["int8"], samples: int = SAMPLES) -> Parity:
    """Whether an artifact that was made otherwise than by `export` - quantised, say - answers as the run does, within
    `limits`; noted in its description. Raises ParityError; the artifact stays."""
    source, folder = Run(Path(run)), Path(artifact)
    parity = _compared(source, open_model(source.path, "cpu"), opened(folder), limits, samples)
    about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    write_json(folder / DESCRIPTION, {**about, "parity": to_json(parity)})
    return parity


def summary(artifact: Artifact) -> str:
    """The artifact and its parity in one sentence."""
    parity = artifact.parity
    return say(
        "export.done",
        path=artifact.path,
        agreement=f"{parity.agreement:.2%}",
        samples=parity.samples,
        difference=f"{parity.max_difference:.1e}",
        logits=f"{parity.max_logit_difference:.1e}",
    )


def names() -> list[str]:
    """The formats there are: the files of `formats/`."""
    files = (each.name for each in pkgutil.iter_modules(formats.__path__))
    return sorted(each.replace("_", "-") for each in files if not each.startswith("_"))


def writer_of(format: str) -> ModuleType:
    """The file of a format. Raises UnknownName."""
    if format not in names():
        raise UnknownName("format", format, names())
    return importlib.import_module(f"{formats.__name__}.{format.replace('-', '_')}")


# --- parity -----------------------------------------------------------------------------------------------------------


def compare(original: Classifier, exported: Classifier, given: Sequence[Any], limits: Limits) -> Parity:
    """Both on the same samples as a user hands them in: a picture's file, a text, a row; of a language model, blocks of
    tokens. Raises ParityError beyond the limits."""
    same = samples = 0
    furthest = logits = largest = 0.0
    for some in _batches(given, original):
        one, other = (_scores(each, some) for each in (original, exported))
        if one.shape != other.shape:
            raise ParityError("parity_shape", one=one.shape, other=other.shape)
        same += int((one.argmax(1) == other.argmax(1)).sum())
        samples += len(one)
        ours, theirs = logits_of(one), logits_of(other)
        # np.maximum keeps NaN, which Python's max loses.
        furthest = float(np.maximum(furthest, np.abs(one - other).max()))
        logits = float(np.maximum(logits, np.abs(ours - theirs).max()))
        largest = float(np.maximum(largest, np.abs(ours).max()))
    agreement = same / samples
    close = furthest <= limits.probability and logits <= limits.logit * max(1.0, largest)
    if not (agreement >= limits.agreement and close):  # written so that NaN fails
        raise ParityError(
            "parity",
            samples=samples,
            agreement=f"{agreement:.2%}",
            wanted=f"{limits.agreement:.1%}",
            difference=f"{furthest:.2g}",
            logits=f"{logits:.2g}",
        )
    return Parity(samples, agreement, furthest, logits, limits.agreement)


def logits_of(scores: np.ndarray) -> np.ndarray:
    """The logits behind probabilities (N, classes), less the mean of each row, which softmax does not see."""
    found = np.log(np.maximum(scores.astype(np.float64), LEAST))
    return found - found.mean(axis=1, keepdims=True)


def real_samples(run: Run, most: int = SAMPLES) -> list[Any]:
    """Up to `most` samples that the model did not learn from, as a user hands them in."""
    task, how, manifest = run.plan().workload.task, run.preprocessing(), data_of(run)
    source = tasks.task(task).samples(manifest, how) if task == "lm" else manifest
    parts = (source.rows(part) for part in ("test", "val", "train"))
    rows = next((each for each in parts if len(each)), np.empty(0, np.int64))
    if not len(rows):
        raise RunError("no_samples", path=run.path)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]
    return _GIVEN[task](source, how, rows)


def _pictures(manifest: Manifest, how: Any, rows: np.ndarray) -> list[Any]:
    return [pack.read(manifest, int(row)) for row in rows]


def _texts(manifest: Manifest, how: Any, rows: np.ndarray) -> list[Any]:
    return texts(manifest, rows).to_pylist()


def _rows(manifest: Manifest, how: Columns, rows: np.ndarray) -> list[Any]:
    columns = [*(name for name, _, _ in how.numbers), *(name for name, _ in how.words)]
    table = content(manifest).select(columns)
    if not how.window:
        return table.take(rows).to_pylist()
    order, place, first = tabular.chains(manifest, how)
    begins = np.maximum(first[rows], place[rows] - how.window + 1)
    return [table.take(order[begin : end + 1]).to_pylist() for begin, end in zip(begins, place[rows], strict=True)]


def _blocks(source: Any, how: Any, rows: np.ndarray) -> list[Any]:
    """Whole blocks, and beginnings of them: a language model takes any length."""
    whole = source.batch([(int(row), 0) for row in rows])[0]
    return [*whole, *(each[: max(2, len(each) // 3)] for each in whole[:BATCH])]


# Samples of some rows as a user hands them in, by task.
_GIVEN: dict[str, Callable[[Any, Any, np.ndarray], list[Any]]] = {
    "image": _pictures,
    "custom": _pictures,
    "text": _texts,
    "table": _rows,
    "lm": _blocks,
}


def _batches(given: Sequence[Any], model: Classifier) -> Iterator[Sequence[Any]]:
    """Batches of several sizes: one size alone would not show that the others work."""
    if model.task != "lm":
        begins = [0, 1, 3, *range(BATCH, len(given), BATCH)]
        ends = [*begins[1:], len(given)]
        yield from (given[begin:end] for begin, end in zip(begins, ends, strict=True) if begin < min(end, len(given)))
        return
    at = 0
    while at < len(given):  # as many of one length as there is room for
        length = len(given[at])
        most = max(1, LOGITS // (length * model.preprocessing.vocabulary))
        end = next((n for n in range(at, min(at + most, len(given))) if len(given[n]) != length), None)
        end = min(at + most, len(given)) if end is None else end
        yield given[at:end]
        at = end


def _scores(model: Classifier, some: Sequence[Any]) -> np.ndarray:
    """(N, classes), by the model's own preprocessing; of a language model a row a token."""
    if model.task == "lm":
        found = model.scores(np.stack(some))
        return found.reshape(-1, found.shape[-1])
    return model.scores(np.stack([prepared(each, model.preprocessing) for each in some]))


def _compared(run: Run, original: Classifier, exported: Classifier, limits: Limits, samples: int = SAMPLES) -> Parity:
    given = real_samples(run, samples)
    try:
        return compare(original, exported, given, limits)
    except FromzeroError:
        raise
    except Exception as error:  # a runtime that fails at run time, each with exceptions of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ParityError("parity_failed", reason=reason) from error


# --- the folder -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when the block ends well, and is gone when it does not."""
    beside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _holding(task: str) -> list[str]:
    return [each for each in names() if task in writer_of(each).TASKS]


def _versions(*packages: str) -> dict[str, str]:
    """The versions of packages, as they are installed."""
    found = {}
    for each in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[each] = version(each)
    return found
