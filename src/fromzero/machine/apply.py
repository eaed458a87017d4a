"""`fromzero setup --apply`: installs a choice into a virtual environment and proves that it works.

    find a source -> keep what is there -> install -> prove -> receipt (setup.json), or all as it was before

A new environment carries a mark until it is proven, and goes away on failure; of an existing one a copy (of hard links,
so it costs no space) lies beside it and takes its place again on failure. What a killed run left, the next one puts
right.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fromzero.errors import FromzeroError, UsageError
from fromzero.files import disk_error, write_json
from fromzero.language import say
from fromzero.machine.detect import Machine
from fromzero.machine.install import Choice
from fromzero.machine.privacy import private
from fromzero.machine.sources import Source, find_source
from fromzero.records import to_json
from fromzero.terminal import Console, bytes_text

RECEIPT = "setup.json"
_MARK = ".fromzero-incomplete"
GIB = 1 << 30
# Room an installation needs while pip unpacks it: with CUDA libraries, and for the CPU alone.
ROOM = {"cuda": 12 * GIB, "cpu": 2 * GIB}


class SetupError(FromzeroError):
    """The environment could not be made or proven; it is as it was before."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What was installed, where from, and what the proof measured (see proof.py)."""

    when: str
    torch: str
    torchvision: str
    cuda_tag: str
    source: str
    environment: str
    machine: Machine
    proof: dict[str, Any]
    packages: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def apply(
    choice: Choice, machine: Machine, folder: Path, mirrors: tuple[str, ...] = (), console: Console | None = None
) -> Receipt:
    """Install `choice` into the virtual environment `folder` (made if it does not exist) and prove it. Raises
    SourceError, SetupError, DiskError or UsageError; the environment is then as it was before."""
    console = console or Console()
    folder = folder.absolute()
    with _alone(folder):
        _undo(folder)  # what a killed run left
        exists = _is_environment(folder)
        source, attempts = find_source(choice, mirrors)
        for attempt in attempts:
            console.line(say("apply.not_there", attempt=attempt))
        console.line(say("apply.source", source=source.name))
        _check_room(folder, choice, source)
        with _as_before_on_failure(folder, exists):
            return _build(choice, machine, folder, source, exists, console)


def _build(choice: Choice, machine: Machine, folder: Path, source: Source, exists: bool, console: Console) -> Receipt:
    """The steps in their order; whatever one raises, the caller puts everything back."""
    if not exists:
        console.line(say("apply.making", folder=folder))
        _make(folder)
    console.line(say("apply.installing", what=" ".join(source.requirements[:2])))
    _install(folder, source, quiet=type(console) is Console)
    console.line(say("apply.proving"))
    proof, notes = _proven(folder, choice, machine)
    receipt = Receipt(
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        torch=proof["torch"],
        torchvision=proof["torchvision"]["version"],
        cuda_tag=f"cu{proof['cuda'].replace('.', '')}" if proof["cuda"] else "cpu",
        source=source.name,
        environment=private(str(folder)),
        machine=machine,
        proof=proof,
        packages=_packages(folder),
        notes=tuple(notes),
    )
    write_json(folder / RECEIPT, to_json(receipt))
    return receipt


def _proven(folder: Path, choice: Choice, machine: Machine) -> tuple[dict[str, Any], list[str]]:
    """The proof and what is to be said of it. Raises SetupError where it fails."""
    notes = []
    proof = _prove(folder, choice)
    if proof["ok"] and not proof["torchvision"]["ok"]:
        # a torchvision whose operators do not load breaks what imports it: better none, and said so
        notes.append(say("apply.no_torchvision", reason=private(proof["torchvision"].get("problem", ""))))
        _run([*_pip(folder, "uninstall"), "torchvision"])
        proof = _prove(folder, choice)
    if not proof["ok"]:
        raise SetupError("proof_failed", reason=_problem(proof))
    if machine.gpus and all(each["device"] == "cpu" for each in proof["devices"]):
        raise SetupError("proof_failed", reason=say("apply.no_gpu_seen"))
    if choice.cuda_tag == "cpu" and proof["cuda"]:
        notes.append(say("apply.larger"))
    notes += [
        say("apply.unset", name=name) for name, value in choice.env.items() if value is None and name in os.environ
    ]
    return proof, notes


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


# --- all or nothing -------------------------------------------------------------------------------------------------


def _is_environment(folder: Path) -> bool:
    """Whether `folder` is a virtual environment to install into; False if it is to be made."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / "pyvenv.cfg").is_file() or not python_of(folder).exists():
        raise UsageError("not_an_environment", folder=folder)
    done = _run([str(python_of(folder)), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    theirs, ours = done.stdout.strip(), f"{sys.version_info.major}.{sys.version_info.minor}"
    if theirs != ours:
        raise UsageError("other_python", folder=folder, theirs=theirs or "?", ours=ours)
    return True


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.fromzero-{what}")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One run at a time: a file beside the folder names the process; that of a dead one does not count."""
    import psutil

    lock = _beside(folder, "lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError):
            number = int(lock.read_text())
            if number == os.getpid() or not psutil.pid_exists(number):
                lock.unlink()
        with lock.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        raise UsageError("setup_runs", folder=folder, lock=lock) from None
    except OSError as error:
        raise disk_error(folder, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


@contextlib.contextmanager
def _as_before_on_failure(folder: Path, exists: bool) -> Iterator[None]:
    try:
        if exists:
            _copy(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _MARK).touch()
    except OSError as error:
        _undo(folder)
        raise disk_error(folder, error) from error
    try:
        yield
    except BaseException:
        _undo(folder)
        raise
    (folder / _MARK).unlink(missing_ok=True)
    _discard(_beside(folder, "before"))


def _undo(folder: Path) -> None:
    """What a failed or killed run left, put right: a whole copy takes its place again, a marked folder goes away."""
    copy = _beside(folder, "before")
    _discard(_beside(folder, "copying"))
    if copy.exists():
        _discard(folder)
        os.replace(copy, folder)
    elif (folder / _MARK).exists():
        _discard(folder)
    for each in (folder, copy, _beside(folder, "copying")):
        for left in folder.parent.glob(f"{glob.escape(each.name)}.trash-*"):
            shutil.rmtree(left, ignore_errors=True)


def _copy(folder: Path) -> None:
    """A copy made of hard links: pip replaces files, it does not write into them. It gets its name when it is whole."""
    copying = _beside(folder, "copying")
    shutil.copytree(folder, copying, symlinks=True, copy_function=_link)
    os.replace(copying, _beside(folder, "before"))


def _discard(folder: Path) -> None:
    """Renamed first: at no moment does half a folder bear its name."""
    if folder.exists():
        trash = folder.with_name(f"{folder.name}.trash-{os.getpid()}")
        os.replace(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)
    return target


def _check_room(folder: Path, choice: Choice, source: Source) -> None:
    if source.local:
        return
    needed = ROOM["cpu" if choice.cuda_tag == "cpu" and source.exact else "cuda"]
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise SetupError("no_room", folder=folder, free=bytes_text(free), needed=bytes_text(needed))


# --- the steps ------------------------------------------------------------------------------------------------------


def _make(folder: Path) -> None:
    """venv, which some distributions ship without pip; uv makes one too."""
    try:
        venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(folder)
    except (subprocess.CalledProcessError, OSError, SystemExit) as error:
        if not (uv := shutil.which("uv")):
            raise SetupError("no_venv", reason=_last(getattr(error, "output", None)) or error) from error
        made = _run([uv, "venv", "--quiet", "--seed", "--allow-existing", "--python", sys.executable, str(folder)])
        if made.returncode:
            raise SetupError("no_venv", reason=_last(made.stderr)) from error


def _has_pip(folder: Path) -> bool:
    return _run([str(python_of(folder)), "-m", "pip", "--version"]).returncode == 0


def _pip(folder: Path, word: str) -> list[str]:
    """The command that installs into or removes from an environment: its own pip, else uv."""
    python = str(python_of(folder))
    if _has_pip(folder):
        return [python, "-m", "pip", word, *(["--yes"] if word == "uninstall" else [])]
    if uv := shutil.which("uv"):
        return [uv, "pip", word, "--python", python]
    raise SetupError("no_pip", python=python)


def _install(folder: Path, source: Source, quiet: bool) -> None:
    command = [*_pip(folder, "install"), *(["--quiet"] if quiet else []), *source.requirements, *source.arguments]
    # what it tells goes to standard error (2): standard output is for the result
    done = subprocess.run(command, env=_environment(), stdout=2, stderr=subprocess.PIPE)
    if done.returncode:
        raise SetupError("install_failed", source=source.name, reason=_last(done.stderr.decode(errors="replace")))


def _prove(folder: Path, choice: Choice) -> dict[str, Any]:
    script = Path(__file__).with_name("proof.py")
    done = _run([str(python_of(folder)), "-I", str(script)], unset=[k for k, v in choice.env.items() if v is None])
    try:
        proof = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise SetupError("proof_failed", reason=_last(done.stderr) or f"status {done.returncode}") from None
    if "problem" in proof:
        raise SetupError("proof_failed", reason=private(proof["problem"]))
    return proof


def _problem(proof: dict[str, Any]) -> str:
    for device in proof["devices"]:
        for what, result in device["results"].items():
            if not result["ok"]:
                return f"{device['device']}, {what}: {result.get('problem') or result.get('error')}"
    return "?"


def _packages(folder: Path) -> dict[str, str]:
    code = (
        "import json; from importlib.metadata import distributions as d; print(json.dumps(dict(sorted("
        "(each.metadata['Name'], each.version) for each in d()))))"
    )
    done = _run([str(python_of(folder)), "-I", "-c", code])
    return json.loads(done.stdout) if not done.returncode else {}


def _run(command: list[str], unset: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in _environment().items() if name not in (unset or ())}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _environment() -> dict[str, str]:
    """This process's, without what would lead the other interpreter back here."""
    away = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_USER", "PIP_PREFIX")
    return {name: value for name, value in os.environ.items() if name not in away}


def _last(text: Any) -> str:
    """What went wrong: the first errors, else the last line that says something."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return private(" ".join(errors[:2] or lines[-1:]))[:500]
