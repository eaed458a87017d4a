"""CPU time of the light commands against bare Python: `python benchmarks/startup.py [--runs N]`.

Each figure is the least CPU time (user and system) of N runs of a fresh interpreter: on a busy machine the least is
what repeats. Bytecode is cached, as after the first call of any installation. The goal: at most five times bare Python.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

GOAL = 5.0
LOG = "Traceback (most recent call last):\nAssertionError: Torch not compiled with CUDA enabled\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "train.log"
        log.write_text(LOG)
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder) / "bytecode")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        print(f"# Start-up, {date.today()}, {_machine()}")
        print(f"Python {platform.python_version()}, fromzero {version('fromzero')}, least CPU time of {runs} runs\n")
        print("| command | CPU ms | times bare Python |\n|---|---|---|")
        bare = least_seconds(["-c", "pass"], runs, environment)
        print(f"| python -c pass | {bare * 1e3:.1f} | 1.0 |")
        beyond = 0
        for words in commands(log):
            took = least_seconds(["-m", "fromzero", *words], runs, environment)
            beyond += took > GOAL * bare
            shown = " ".join("train.log" if each == str(log) else each for each in words)
            print(f"| fromzero {shown} | {took * 1e3:.1f} | {took / bare:.1f} |")
    print(f"\n{beyond} of {len(commands(log))} commands take more than the {GOAL:.0f} times that are the goal.")
    return 0


def commands(log: Path) -> list[list[str]]:
    return [
        ["--help"],
        ["--version"],
        ["cards", "--series", "50"],
        ["cards", "--json"],
        ["cards", "3090"],
        ["setup"],
        ["setup", "--json"],
        ["doctor"],
        ["doctor", "--log", str(log)],
        ["watch", "--help"],
        ["bench", "--help"],
    ]


def least_seconds(arguments: list[str], runs: int, environment: dict[str, str]) -> float:
    """CPU seconds of the quickest of `runs`, after one that writes the bytecode."""
    best = float("inf")
    for number in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best, took) if number else best
    return best


def _machine() -> str:
    from fromzero.machine.detect import cpu_name
    from fromzero.machine.process import usable_cores

    return f"{cpu_name()}, {usable_cores()} cores, {platform.system()}"


if __name__ == "__main__":
    sys.exit(main())
