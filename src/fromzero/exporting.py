"""export(): writes an artifact, then proves that it answers as the model does; otherwise nothing is left.

An artifact is a folder: the model file and `artifact.json` with labels, preprocessing, checksum, parity and the run it
came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import pkgutil
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fromzero import formats, tasks
from fromzero.errors import FromzeroError, ParityError, RunError, UnknownName
from fromzero.files import disk_error, write_json
from fromzero.language import say
from fromzero.predicting import open_classifier
from fromzero.records import to_json
from fromzero.runs import Run
from fromzero.runtimes import Classifier
from fromzero.runtimes.torch_runtime import open_model
from fromzero.training import data_of

AGREEMENT = 0.999  # share of pictures with the same first class
DIFFERENCE = 1e-3  # of a probability; fp32 kernels differ by about 1e-6
PARITY_PICTURES = 500


@dataclass(frozen=True)
class Parity:
    """The same real pictures through model and artifact."""

    pictures: int
    agreement: float
    max_difference: float


@dataclass(frozen=True)
class Artifact:
    """A folder that `serve` and `predict` take."""

    path: Path
    format: str
    file: str
    parity: Parity


def export(run: Path | str, format: str = "onnx", output: Path | str | None = None) -> Artifact:
    """Write the run's best model as an artifact (default: `<run>/artifact-<format>`, replaced if it is there). Raises
    ParityError, and leaves nothing, if the artifact disagrees with the model on real pictures of the run's data."""
    source = Run(Path(run))
    if format not in names():
        raise UnknownName("format", format, names())
    target = Path(output) if output else source.path / f"artifact-{format}"
    if target.exists() and not (target / "artifact.json").is_file():
        raise RunError("not_an_artifact", path=target)
    original = open_model(source.path)
    beside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        writer = importlib.import_module(f"{formats.__name__}.{format}")
        file = writer.write(original.module.cpu(), original.preprocessing, original.labels, beside)
        about: dict[str, Any] = {
            "format": format,
            "model": original.name,
            "file": file,
            "labels": original.labels,
            "preprocessing": original.preprocessing,
            "sha256": {file: hashlib.sha256((beside / file).read_bytes()).hexdigest()},
            "run": str(source.path.resolve()),
            "versions": _versions("torch", format),
        }
        write_json(beside / "artifact.json", to_json(about))
        parity = compare(original, open_classifier(beside), _pictures(source))
        write_json(beside / "artifact.json", to_json({**about, "parity": parity}))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)
    except FromzeroError:
        raise
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Artifact(target, format, file, parity)


def summary(artifact: Artifact) -> str:
    """The artifact and its parity in one sentence."""
    parity = artifact.parity
    return say(
        "export.done",
        path=artifact.path,
        agreement=f"{parity.agreement:.2%}",
        pictures=parity.pictures,
        difference=f"{parity.max_difference:.1e}",
    )


def names() -> list[str]:
    """The formats there are: the files of `formats/`."""
    return sorted(each.name for each in pkgutil.iter_modules(formats.__path__))


def compare(original: Classifier, exported: Classifier, pictures: np.ndarray) -> Parity:
    """Both on the same uint8 pictures; raises ParityError beyond the limits."""
    chunks = np.array_split(pictures, max(1, len(pictures) // 64))
    one = np.concatenate([original.scores(each) for each in chunks])
    other = np.concatenate([exported.scores(each) for each in chunks])
    agreement = float((one.argmax(axis=1) == other.argmax(axis=1)).mean())
    difference = float(np.abs(one - other).max())
    if not (agreement >= AGREEMENT and difference <= DIFFERENCE):  # written so that NaN fails
        raise ParityError(
            "parity", pictures=len(pictures), agreement=f"{agreement:.2%}", difference=f"{difference:.2g}"
        )
    return Parity(len(pictures), agreement, difference)


def _versions(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed: a format need not be named as its package."""
    found = {}
    for each in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[each] = version(each)
    return found


def _pictures(run: Run) -> np.ndarray:
    """Real pictures the model did not learn from, through its own preprocessing."""
    samples = tasks.trained(run.plan().workload.task).samples(data_of(run), run.preprocessing())
    rows = samples.rows("test")
    rows = rows if len(rows) else samples.rows("val")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), PARITY_PICTURES)).astype(int)]
    return samples.batch([(int(row), 0) for row in rows])[0]
