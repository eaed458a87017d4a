"""deploy(): an artifact becomes a folder that another system runs, with all that it needs in it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import fromzero
from fromzero import deployments
from fromzero.deployments import MODEL, REQUIREMENTS, Service, Tensor
from fromzero.errors import MissingPackage, RunError, UnknownName, UsageError
from fromzero.files import disk_error
from fromzero.runtimes._artifact import DESCRIPTION

EXTRA = "serve"
IMAGE = r"[a-z0-9][\w.:/@-]*"  # what a registry's image may be called, and no more
NAME = r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?"  # a DNS label, with room for what systems put behind it


@dataclass(frozen=True)
class Deployment:
    """What was written, and the commands that come next in that folder."""

    path: Path
    target: str
    files: tuple[str, ...]
    after: tuple[str, ...]


def deploy(artifact: Path | str, to: str, output: Path | str | None = None, **settings: Any) -> Deployment:
    """Write the folder (default: deploy-<to>) with which the system `to`, a file of deployments/, runs an artifact.
    `settings` are fields of Service: name, gpu, port, replicas, image; None stands for the target's own.

    Raises UnknownName for another system, RunError for what is no whole ONNX artifact, UsageError for a folder that
    holds something, a name that is none, or a setting that this target has no use for."""
    if to not in deployments.known():
        raise UnknownName("target", to, deployments.known())
    folder = Path(output) if output else Path(f"deploy-{to}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("folder_not_empty", path=folder)
    target = deployments.target(to)
    settings = {name: value for name, value in settings.items() if value not in (None, "", False)}
    for name in sorted(set(settings) & set(target.UNUSED)):
        raise UsageError("setting_unused", flag=f"--{name}", target=to)
    if "image" in settings and not re.fullmatch(IMAGE, settings["image"]):
        raise UsageError("not_an_image", image=settings["image"])
    service = _service(Path(artifact), settings)
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir(parents=True)
        for name, content in target.files(service).items():
            _put(beside / name, content)
        if target.PACKAGED:
            _copy(Path(artifact), beside / MODEL)
            wheel = pack(beside)
            _put(beside / REQUIREMENTS, requirements(wheel.name))
        if folder.exists():
            folder.rmdir()
        os.replace(beside, folder)
    except OSError as error:
        raise disk_error(folder, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    written = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    return Deployment(folder, to, tuple(written), tuple(target.after(service)))


def _copy(artifact: Path, folder: Path) -> None:
    """The files that the artifact names: what else lies there (pictures that were explained) is nobody's business."""
    about = json.loads((artifact / DESCRIPTION).read_text(encoding="utf-8"))
    folder.mkdir()
    for name in (DESCRIPTION, *about["sha256"]):
        shutil.copyfile(artifact / name, folder / name)


def _put(path: Path, content: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_text(content, encoding="utf-8", newline="\n")


# --- the artifact -----------------------------------------------------------------------------------------------------


def _service(artifact: Path, settings: dict[str, Any]) -> Service:
    """Opened as the server opens it: what is damaged here would be damaged there."""
    from fromzero.predicting import open_classifier
    from fromzero.runtimes._artifact import described

    classifier = open_classifier(artifact, "cpu")
    if not (artifact / "artifact.json").is_file():  # a run
        raise RunError("not_deployable", path=artifact)
    about = described(artifact)
    if not about.file.endswith(".onnx"):
        raise RunError("not_deployable", path=artifact)
    name = settings.pop("name", None) or _label(about.model)
    if not re.fullmatch(NAME, name):
        raise UsageError("not_a_job_name", name=name)
    return Service(
        name=name,
        model=artifact / about.file,
        model_bytes=(artifact / about.file).stat().st_size,
        labels=classifier.labels,
        input=Tensor(about.input, about.kind.name, tuple(-1 if each is None else each for each in about.shape)),
        output=Tensor(about.output, "float32", (len(classifier.labels),)),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        onnxruntime=".".join(version("onnxruntime").split(".")[:2]),
        **settings,
    )


def _label(model: str) -> str:
    """A model's name as a DNS label: "hf:google/vit" -> "hf-google-vit"."""
    made = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:50].strip("-")
    return made if re.fullmatch(NAME, made) else f"model-{made}".strip("-")[:50].strip("-")


# --- this program, as a package ---------------------------------------------------------------------------------------


def pack(folder: Path) -> Path:
    """The fromzero that runs here as a wheel in `folder`: it is on no index, and what answers there should be what was
    tried here. Needs no build tools: the installed files are packed again (PyPA's binary distribution format)."""
    installed = distribution("fromzero")
    about = f"fromzero-{fromzero.__version__}.dist-info"
    path = folder / f"fromzero-{fromzero.__version__}-py3-none-any.whl"
    records = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in [*_sources(), *_description(installed, about)]:
            wheel.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            records.append(f"{name},sha256={digest},{len(content)}\n")
        wheel.writestr(f"{about}/RECORD", "".join([*records, f"{about}/RECORD,,\n"]))
    return path


def _sources() -> Iterator[tuple[str, bytes]]:
    root = Path(fromzero.__file__).parent
    for each in sorted(root.rglob("*")):
        if each.is_file() and "__pycache__" not in each.parts:
            yield f"fromzero/{each.relative_to(root).as_posix()}", each.read_bytes()


def _description(installed: Distribution, about: str) -> Iterator[tuple[str, bytes]]:
    for name in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
        if text := installed.read_text(name):
            yield f"{about}/{name}", text.encode()
    yield f"{about}/WHEEL", b"Wheel-Version: 1.0\nGenerator: fromzero\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def requirements(wheel: str) -> str:
    """The wheel with what serving needs, and the versions of all that as they are installed here."""
    pins = [f"{name}=={found.split('+')[0]}\n" for name, found in sorted(_closure("fromzero", EXTRA).items())]
    return "".join([f"./{wheel}[{EXTRA}]\n", *pins])


def _closure(package: str, extra: str) -> dict[str, str]:
    """Everything that `package[extra]` needs, by name, with the installed version."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [(package, ("", extra))]
    while waiting:
        name, extras = waiting.pop()
        for line in distribution(name).requires or ():
            each = Requirement(line)
            if each.marker and not any(each.marker.evaluate({"extra": wanted}) for wanted in extras):
                continue
            try:
                installed = version(each.name)
            except PackageNotFoundError as error:
                raise MissingPackage(each.name, EXTRA) from error
            if canonicalize_name(each.name) not in found:
                found[canonicalize_name(each.name)] = installed
                waiting.append((each.name, ("", *each.extras)))
    return found
