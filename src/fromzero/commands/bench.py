"""fromzero bench: what the device at hand really does, beside the catalogue; kept for the planner."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fromzero.errors import DiskError, UsageError
from fromzero.language import say
from fromzero.terminal import Terminal, print_table

if TYPE_CHECKING:  # --help needs none of it
    from fromzero.machine.measured import Bench, DeviceBench


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help=say("flag.bench.seconds"))
    parser.add_argument("--folder", metavar="DIR", help=say("flag.bench.folder"))
    parser.add_argument("--no-save", action="store_true", help=say("flag.bench.no_save"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    if not 0 < options.seconds <= 60:
        raise UsageError("bench_seconds", seconds=options.seconds)
    from fromzero.machine.bench import bench
    from fromzero.machine.measured import store_bench
    from fromzero.records import to_json

    if options.folder and not Path(options.folder).is_dir():  # a typo must not become a new folder
        raise UsageError("bench_folder", path=options.folder)
    found = bench(options.seconds, Path(options.folder) if options.folder else None, Terminal(), _loader())
    saved = None
    if not options.no_save:
        try:
            saved = store_bench(found)
        except DiskError as error:  # what was measured is still worth showing
            print(f"{error.cause} {error.fix}", file=sys.stderr)
    if options.json:
        print(json.dumps(to_json(found), ensure_ascii=False, indent=2))
        return 0
    for device in found.devices:
        _print_device(device)
    _print_host(found)
    for reason in found.notes.values():
        print(f"- {reason}")
    if saved:
        print(say("bench.saved", path=saved))
    return 0


def _print_device(device: DeviceBench) -> None:
    rows = [
        [say("bench.rate", precision=name), _tera(rate), _share(device, name)] for name, rate in device.rates.items()
    ]
    for what, value in (
        ("bandwidth", device.bandwidth),
        ("to_device", device.to_device),
        ("from_device", device.from_device),
    ):
        if value:
            rows.append([say(f"bench.{what}"), f"{value / 1e9:.1f} GB/s", _share(device, what)])
    if rows:
        title = f"{device.card} ({device.device}, {device.library})"
        print_table([say("bench.what"), say("bench.measured"), say("bench.share")], rows, title=title)
    verdict = specification(device)
    if verdict:
        print(verdict)


def specification(device: DeviceBench) -> str:
    """ "62 % of specification: power limit 120 W of 170 W", or "" for what is in no catalogue."""
    if not device.shares:
        return "" if device.is_cpu else say("bench.not_in_catalogue", card=device.card)
    rates = [share for name, share in device.shares.items() if name != "bandwidth"]
    share = f"{min(rates or device.shares.values()):.0%}"
    reasons = [_reason(*each) for each in device.reasons]
    return say("bench.of_specification", share=share) + (": " + "; ".join(reasons) if reasons else "")


def _reason(code: str, *figures: str) -> str:
    if code == "throttle":
        return say("bench.reason.throttle", why=say(f"watch.throttle.{figures[0].replace(' ', '_')}"))
    return say(f"bench.reason.{code}", now=figures[0], full=figures[1])


def _print_host(found: Bench) -> None:
    rows = []
    if found.disk_read:
        rows.append([say("bench.disk"), f"{found.disk_read / 1e6:.0f} MB/s"])
    if found.decode_per_core:
        rows.append([say("bench.decode"), say("bench.pictures", rate=f"{found.decode_per_core:.0f}")])
    if found.loader:
        rows.append([say("bench.loader", cores=found.cores), say("bench.pictures", rate=f"{found.loader:.0f}")])
    if rows:
        print_table([say("bench.what"), say("bench.measured")], rows)


def _share(device: DeviceBench, name: str) -> str:
    return f"{device.shares[name]:.0%}" if name in device.shares else "-"


def _tera(rate: float) -> str:
    return f"{rate / 1e12:.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.1f} GFLOP/s"


def _loader() -> Callable[[bytes], object] | None:
    """How training makes a picture of a JPEG's bytes; None where what it needs is not installed."""
    try:
        import numpy
        import simplejpeg  # noqa: F401
        import torch  # noqa: F401

        from fromzero.data.augment import varied
        from fromzero.records import Preprocessing
    except ImportError:
        return None
    how = Preprocessing(size=224, channels=3, crop=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    rng = numpy.random.default_rng(0)
    return lambda content: varied(content, how, "crop-flip", rng)
