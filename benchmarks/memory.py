"""How far the planner's peak memory is from published measurements.

    python benchmarks/memory.py ROWS.csv.gz [--source GPUMemNet-timm] [--models 60] [--seed 0]

ROWS has the columns source, gpu, model, input, precision, optimizer, batch_size, peak_mib, oom, row_quality. For
GPUMemNet's rows (fp32, SGD with momentum, the model's own picture size, one A100) the fixed part of the machine is
taken from the rows themselves: its median over other families, so that no family is judged by its own figures.
Prints machine, date and versions, the error by family, and the worst rows.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import platform
import random
import statistics
import sys
import time
from collections import defaultdict
from datetime import date

MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows")
    parser.add_argument("--source", default="GPUMemNet-timm")
    parser.add_argument("--models", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dump", help="write every row with its prediction to this CSV")
    options = parser.parse_args()
    import timm
    import torch

    machine = platform.processor() or platform.machine()
    print(f"{machine}, {date.today()}, torch {torch.__version__}, timm {timm.__version__}")
    with gzip.open(options.rows, "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == options.source and row["row_quality"] == "ok"]
    rows = [row for row in rows if row["oom"] == "0" and timm.is_model(row["model"])]
    by_model = defaultdict(list)
    for row in rows:
        by_model[row["model"]].append(row)
    names = sorted(by_model)
    random.Random(options.seed).shuffle(names)
    judged = []
    start = time.process_time()
    for name in names[: options.models]:
        judged += predictions(name, by_model[name])
    print(f"{len(judged)} rows of {options.models} models in {time.process_time() - start:.0f} CPU-s")
    report(judged)
    if options.dump:
        with open(options.dump, "w", newline="") as file:
            table = csv.DictWriter(file, fieldnames=list(judged[0]))
            table.writeheader()
            table.writerows(judged)


def predictions(name: str, rows: list[dict[str, str]]) -> list[dict[str, object]]:
    """Measured and predicted peaks of one model's rows, in MiB, without the context."""
    import timm

    from fromzero import plan_many

    size = timm.get_pretrained_cfg(name).input_size[-1]
    words = {"model": name, "card": "NVIDIA A100-SXM4-40GB", "imgsz": size, "optimizer": "sgd-momentum", "clip": 0.0}
    found = []
    try:
        plans = plan_many([{**words, "batch": int(row["batch_size"])} for row in rows])
    except Exception as error:  # a model that does not trace is a finding, not the end
        print(f"{name}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
        return []
    for row, plan in zip(rows, plans, strict=True):
        memory = plan.memory
        found.append(
            {
                "model": name,
                "family": name.split("_")[0].rstrip("0123456789"),
                "batch": int(row["batch_size"]),
                "measured": float(row["peak_mib"]),
                "reserved": memory.reserved_peak / MIB,
                "allocated": memory.allocated_peak / MIB,
                "high": (memory.high - memory.parts["context"]) / MIB,
            }
        )
    return found


def report(judged: list[dict]) -> None:
    """Errors of the total, the base taken from the other families."""
    families = sorted({row["family"] for row in judged})
    errors = []
    for family in families:
        base = statistics.median(r["measured"] - r["reserved"] for r in judged if r["family"] != family)
        for row in judged:
            if row["family"] == family:
                row["error"] = (row["reserved"] + base) / row["measured"] - 1
                errors.append(abs(row["error"]))
    errors.sort()
    print(f"median {statistics.median(errors):.1%}, p90 {errors[int(0.9 * len(errors))]:.1%}, worst {errors[-1]:.1%}")
    for row in sorted(judged, key=lambda row: -abs(row["error"]))[:12]:
        print(f"  {row['model']} batch {row['batch']}: {row['error']:+.0%} of {row['measured']:.0f} MiB")


if __name__ == "__main__":
    main()
