"""Our choice of a wheel beside others': PyTorch's own list, rigsolve and uv, on the cases people get wrong.

`python benchmarks/wheels.py [--no-install]`: rigsolve and uv are installed into a throwaway environment; what cannot be
had is left out and said. uv is asked what it would download (its log names the index it turns to), so nothing is
installed. Who is right is judged by the kernels, drivers and Pythons of PyTorch's own tables, not by our table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path

from fromzero.errors import UsageError
from fromzero.facts.cards import find_card
from fromzero.facts.wheels import Wheel, find_wheel, first_driver, minor, version, wheels
from fromzero.machine.apply import python_of
from fromzero.machine.detect import Gpu, Machine
from fromzero.machine.install import choose_wheel


@dataclass(frozen=True)
class Case:
    """One machine: Linux unless `os` says otherwise."""

    card: str
    driver: str
    python: str = "3.12"
    why: str = ""


CASES = (
    Case("GTX 1080 Ti", "580.95", why="Pascal on a current driver: only cu126 has its kernels"),
    Case("GTX 1080 Ti", "535.183.01", why="Pascal on the driver of an old Ubuntu"),
    Case("GTX 1660 Ti", "535.183.01", why="Turing, driver too old for CUDA 13"),
    Case("Tesla V100-SXM2-16GB", "580.95", why="Volta: left cu128 with torch 2.11"),
    Case("RTX 3060 12 GB", "525.60.13", why="the oldest driver for CUDA 12"),
    Case("RTX 3090", "470.256.02", why="a driver of CUDA 11"),
    Case("RTX 4090", "535.183.01", why="the commonest server driver"),
    Case("RTX 4090", "580.95", why="nothing in the way"),
    Case("RTX 4090", "580.95", "3.9", why="an old Python"),
    Case("RTX 5090", "570.124.06", why="Blackwell on its first driver branch"),
    Case("RTX 5090", "580.95", why="Blackwell on a current driver"),
    Case("RTX 5090", "565.77", why="a driver that does not know the card"),
)
NONE = "refuses"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-install", action="store_true", help="compare with PyTorch's list alone")
    options = parser.parse_args()
    print(f"# Choice of wheels, {date.today()}, {platform.system()} {platform.machine()}")
    print(f"Python {platform.python_version()}, fromzero {installed('fromzero')}\n")
    _against_pytorch()
    with tempfile.TemporaryDirectory() as folder:
        tools = {} if options.no_install else _tools(Path(folder))
        _against_tools(tools, Path(folder))
    return 0


# --- PyTorch's own list ---------------------------------------------------------------------------------------------


def _against_pytorch() -> None:
    """The kernels that our table says a release has, and those that the installed wheel lists for each CUDA."""
    listed, release = pytorch_list()
    if not listed:
        print("PyTorch's own list: no installed torch has one (2.14 and newer do).\n")
        return
    print(f"## PyTorch's own list (PYTORCH_RELEASES_CODE_CC of the installed torch {release})\n")
    print("| CUDA | its list | our table | |\n|---|---|---|---|")
    for cuda, theirs in sorted(listed.items(), key=lambda each: version(each[0])):
        row = find_wheel(release, f"cu{cuda.replace('.', '')}")
        ours = row.kernels_linux if row else ()
        same = "same" if ours == theirs else ("not in our table: not published" if not ours else "DIFFERENT")
        print(f"| {cuda} | {' '.join(theirs)} | {' '.join(ours) or '-'} | {same} |")
    print()


def pytorch_list() -> tuple[dict[str, tuple[str, ...]], str]:
    """CUDA version -> compute capabilities, read from torch/cuda/__init__.py as text; and torch's release."""
    found = find_spec("torch")
    if found is None or not found.origin:
        return {}, ""
    source = (Path(found.origin).parent / "cuda" / "__init__.py").read_text(encoding="utf-8")
    table = re.search(r"^PYTORCH_RELEASES_CODE_CC[^=]*= \{(.*?)^\}", source, re.M | re.S)
    if table is None:
        return {}, ""
    rows = re.findall(r'"([\d.]+)": \{\s*"x86_64": \{([\d, ]+)\}', table[1])
    return {cuda: tuple(f"{int(each) / 10:.1f}" for each in codes.split(",")) for cuda, codes in rows}, minor(
        installed("torch")
    )


# --- other tools ----------------------------------------------------------------------------------------------------


def _tools(folder: Path) -> dict[str, Path]:
    """rigsolve and uv of a throwaway environment: name -> program."""
    venv.EnvBuilder(with_pip=True).create(folder / "env")
    programs = {}
    for name in ("rigsolve", "uv"):
        done = subprocess.run(
            [python_of(folder / "env"), "-m", "pip", "install", "--quiet", name], capture_output=True, text=True
        )
        program = python_of(folder / "env").with_name(name + (".exe" if os.name == "nt" else ""))
        if done.returncode == 0 and program.exists():
            shown = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
            print(f"{name}: {shown.splitlines()[0] if shown else '?'}")
            programs[name] = program
        else:
            print(f"{name}: could not be installed, left out")
    return programs


def _against_tools(tools: dict[str, Path], folder: Path) -> None:
    asked = {"rigsolve": _rigsolve, "uv": _uv}
    names = [name for name in asked if name in tools]
    print(f"\n## {len(CASES)} machines (Linux x86-64)\n")
    print("| card, driver, Python | the trap | fromzero | " + " | ".join(names) + (" |" if names else ""))
    print("|---|---|---|" + "---|" * len(names))
    counts: dict[str, list[str]] = {name: [] for name in ("fromzero", *names)}
    for case in CASES:
        answers = {"fromzero": _ours(case), **{name: asked[name](tools[name], case, folder) for name in names}}
        judged = {name: judge(case, answer) for name, answer in answers.items()}
        for name, verdict in judged.items():
            counts[name].append(verdict.partition(":")[0])
        cells = [f"{answer}: {judged[name]}" for name, answer in answers.items()]
        print(f"| {case.card}, {case.driver}, {case.python} | {case.why} | {' | '.join(cells)} |")
    print()
    for name, verdicts in counts.items():
        print(f"- {name}: " + ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts)))
    print("\nright: it runs (or it is a refusal where no verified wheel does); older: a newer release would run too.")
    print("uv chooses a variant, and the release by its index: any release of the variant that runs counts as right.")


def _ours(case: Case) -> str:
    try:
        choice = choose_wheel(_machine(case))
    except UsageError:
        return NONE
    return f"{choice.torch} {choice.cuda_tag}"


def _rigsolve(program: Path, case: Case, folder: Path) -> str:
    target = f"{_plain(case.card)},driver={case.driver},python={case.python},linux"
    done = subprocess.run(
        [program, "solve", "--want", "torch", "--target", target, "--prefer", "newest", "--output", "json"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    try:
        step = next(each for each in json.loads(done.stdout)["steps"] if each["package"] == "torch")
    except (ValueError, KeyError, StopIteration):
        return NONE
    return f"{minor(step['version'])} cu{step['cuda_line'].replace('.', '')}"


def _uv(program: Path, case: Case, folder: Path) -> str:
    """uv's choice by the driver: the newest variant among the indexes it turns to."""
    environment = {**os.environ, "UV_CUDA_DRIVER_VERSION": case.driver, "UV_HTTP_RETRIES": "0"}
    words = ["pip", "compile", "--torch-backend=auto", f"--python-version={case.python}", "--no-cache", "-v", "-"]
    done = subprocess.run(
        [program, *words], input="torch", capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )
    tags = re.findall(r"whl/(cu\d+|cpu)\b", done.stderr + done.stdout)
    known = [tag for tag in tags if tag != "cpu" and any(each.cuda_tag == tag and each.verified for each in wheels())]
    if not known:
        return NONE
    tag = max(known, key=lambda each: int(each[2:]))
    return tag


# --- who is right ---------------------------------------------------------------------------------------------------


def judge(case: Case, answer: str) -> str:
    """Whether an answer ("2.14 cu126", "cu126" for any release of it, or a refusal) runs on the machine."""
    best = _ours(case)
    if answer == NONE:
        return "right" if best == NONE else "WRONG: something runs"
    *release, tag = answer.split()
    named = [
        each
        for each in wheels()
        if each.verified and each.cuda_tag == tag and [each.torch] == (release or [each.torch])
    ]
    if not named:
        return "unknown: no such wheel in our table"
    faults = [_fault(wheel, case) for wheel in named]
    if all(faults):
        return f"WRONG: {faults[-1]}"
    return "right" if not release or version(release[0]) >= version(best.split()[0]) else "older"


def _fault(wheel: Wheel, case: Case) -> str:
    capability = _machine(case).gpus[0].capability
    if not (wheel.runs_on(capability, "linux") or wheel.compiles_for(capability, "linux")):
        return "no kernels for the card"
    if version(case.driver) < version(wheel.driver("linux")):
        return "the driver is too old for it"
    if version(case.driver) < version(first_driver(capability, "linux") or "0"):
        return "the driver does not know the card"
    if not version(wheel.python_first) <= version(case.python) <= version(wheel.python_last):
        return "no wheel for this Python"
    return ""


def _machine(case: Case) -> Machine:
    card = find_card(case.card)
    gpu = Gpu(name=card.title, memory_bytes=card.memory_bytes, capability=card.compute_capability)
    return Machine(os="linux", python=case.python, glibc="2.35", driver=case.driver, gpus=(gpu,))


def _plain(card: str) -> str:
    """The short name that other tools know: "RTX 3060", "V100"."""
    return re.sub(r"^Tesla (\w+?)-.*", r"\1", card).removesuffix(" 12 GB")


if __name__ == "__main__":
    sys.exit(main())
