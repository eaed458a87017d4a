"""The command lines with which NVIDIA's profilers look at this very step: Nsight Systems for its course, Nsight Compute
for its kernels. By their documentation; they need a card, and were not run here.
"""

from __future__ import annotations

import shlex
from pathlib import Path

KERNELS = 50  # that Nsight Compute measures; each is run many times over


def commands(run: Path, folder: Path) -> tuple[str, ...]:
    """(nsys ..., ncu ...) for the steps between the marks of `measuring.captured`."""
    step = f"fromzero profile {shlex.quote(str(run))} --under-nsight"
    systems, compute = (shlex.quote(str(folder / name)) for name in ("nsys", "ncu"))
    return (
        "nsys profile --trace=cuda,nvtx,osrt,cudnn,cublas --capture-range=cudaProfilerApi --capture-range-end=stop "
        f"--force-overwrite=true --output={systems} {step}",
        f"ncu --target-processes=all --profile-from-start=off --set=full --launch-count={KERNELS} "
        f"--force-overwrite --export={compute} {step}",
    )
