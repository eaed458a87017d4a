"""Which models trace: names drawn at random, each planned at a small batch in a process of its own.

    python benchmarks/coverage.py [--timm 300] [--transformers 40] [--torchvision 0] [--seed 0] [--purpose train|infer]
                                  [--steps 3] [--limit 120] [--record FILE.jsonl]

Of transformers, model types that have a head for text or pictures, with the default configuration of the type; of
torchvision and timm, classifiers. 0 means all of a family, a negative number none. A model that takes more than --limit
CPU-seconds is stopped and counts as a failure. Types whose default configuration transformers itself cannot build or
run are counted like any other.

Prints machine, date and versions, the failures by their reason, CPU-seconds a model (median, p90, worst) and the most
memory a process took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import signal
import sys
import warnings
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

FAMILIES = ("timm", "torchvision", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", type=int, default=300)
    parser.add_argument("--torchvision", type=int, default=0)
    parser.add_argument("--transformers", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--purpose", choices=("train", "infer"), default="train")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    import timm
    import torch
    import torchvision
    import transformers

    import fromzero.planning  # noqa: F401 - loaded once, before the processes part

    machine = platform.processor() or platform.machine()
    versions = ((each.__name__, each.__version__) for each in (torch, timm, torchvision, transformers))
    print(
        f"{machine}, {date.today()}, Python {platform.python_version()}",
        *(" ".join(each) for each in versions),
        sep=", ",
    )
    words = {"batch": 4, "precision": "amp-fp16", "purpose": options.purpose, "steps": options.steps, "seq": 128}
    print(f"seed {options.seed}, {words}")
    for family in FAMILIES:
        count = getattr(options, family)
        if count >= 0:
            names = sorted(NAMES[family]())
            random.Random(options.seed).shuffle(names)
            found = [traced(name, words, options.limit) for name in names[: count or None]]
            report(family, found)
            if options.record:
                with options.record.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(each) + "\n" for each in found)


def timm_names() -> list[str]:
    import timm

    return timm.list_models()


def torchvision_names() -> list[str]:
    from torchvision import models

    return [f"torchvision:{name}" for name in models.list_models(module=models)]


def transformers_names() -> list[str]:
    from transformers.models.auto import modeling_auto

    heads = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION")
    types = set().union(*(getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES") for head in heads))
    return [f"hf:{name}" for name in types]


NAMES = {"timm": timm_names, "torchvision": torchvision_names, "transformers": transformers_names}


def traced(name: str, words: dict[str, Any], limit: int) -> dict[str, Any]:
    """What became of `name`: its reason if it failed, CPU-seconds and the peak resident memory of its process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.write(writing, attempt(name, words, limit).encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        reason = pipe.read().decode(errors="replace")
    _, status, used = os.wait4(child, 0)
    if status:
        reason = f"stopped after {limit} CPU-seconds" if status == signal.SIGXCPU else f"died of {status}"
    if reason:
        print(f"{name}: {reason}", file=sys.stderr, flush=True)
    return {"name": name, "reason": reason, "cpu": used.ru_utime + used.ru_stime, "bytes": used.ru_maxrss * 1024}


def attempt(name: str, words: dict[str, Any], limit: int) -> str:
    """Plan `name`; why it failed, or nothing."""
    from fromzero import plan

    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    warnings.simplefilter("ignore")
    try:
        plan(name, card="RTX 3060 12 GB", **words)
    except BaseException as error:  # whatever a model does is a finding
        cause = error.__cause__ or error
        return f"{type(cause).__name__}: {cause}"[:300].replace("\n", " ")
    return ""


def report(family: str, found: list[dict[str, Any]]) -> None:
    failed = [each for each in found if each["reason"]]
    seconds = sorted(each["cpu"] for each in found)
    worst = max(found, key=lambda each: each["cpu"])
    print(f"\n{family}: {len(found) - len(failed)} of {len(found)} trace ({1 - len(failed) / len(found):.1%})")
    print(
        f"  CPU-seconds: median {seconds[len(seconds) // 2]:.1f}, p90 {seconds[int(0.9 * len(seconds))]:.1f}, ", end=""
    )
    print(f"worst {seconds[-1]:.1f} ({worst['name']}); memory up to {max(e['bytes'] for e in found) / 2**30:.2f} GiB")
    for reason, count in Counter(each["reason"][:60] for each in failed).most_common():
        names = [each["name"] for each in failed if each["reason"][:60] == reason]
        print(f"  {count}x {reason} - {', '.join(names[:6])}")


if __name__ == "__main__":
    main()
