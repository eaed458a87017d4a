"""fromzero watch: what the cards and the CPU do, live; logged, served to Prometheus, added up as energy and money."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.terminal import bytes_text, seconds_text

if TYPE_CHECKING:  # --help needs none of it
    from fromzero.machine.watch import GpuSample, Meter, Recording, Sample


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help=say("flag.watch.interval"))
    parser.add_argument("--seconds", type=float, metavar="N", help=say("flag.watch.seconds"))
    parser.add_argument("--once", action="store_true", help=say("flag.watch.once"))
    parser.add_argument("--log", metavar="FILE", help=say("flag.watch.log"))
    parser.add_argument("--prometheus", type=int, metavar="PORT", help=say("flag.watch.prometheus"))
    parser.add_argument("--host", default="127.0.0.1", help=say("flag.watch.host"))
    parser.add_argument("--tariff", type=float, metavar="PRICE", help=say("flag.watch.tariff"))
    parser.add_argument("--currency", default="CNY", help=say("flag.watch.currency"))
    parser.add_argument("--json", action="store_true", help=say("flag.watch.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.machine.export import Log, serve_metrics
    from fromzero.machine.watch import Meter, samples
    from fromzero.records import to_json

    for name in ("interval", "seconds", "tariff"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UsageError("watch_not_positive", name=name, value=value)
    seconds = 0.0 if options.once else options.seconds
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(Log(Path(options.log))) if options.log else None
        meter = stack.enter_context(Meter())
        publish = None
        if options.prometheus is not None:
            publish, address = stack.enter_context(serve_metrics(options.host, options.prometheus))
            print(say("watch.prometheus", address=address), file=sys.stderr)
        show = stack.enter_context(_shown(options, meter))
        last = None
        with contextlib.suppress(KeyboardInterrupt):  # the way to end a watch without --seconds
            for last in samples(meter, options.interval, seconds):
                if log:
                    log.write(last)
                if publish:
                    publish(last, meter.recording())
                show(last)
    recording = meter.recording()
    if options.json:
        answer = {"sample": to_json(last)} if options.once else {"last": to_json(last)}
        print(json.dumps({**answer, "recording": _summary(recording, options)}, ensure_ascii=False, indent=2))
    elif not options.once:
        print("\n".join(_sentences(recording, options)))
    return 0


# --- while it runs --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _shown(options: argparse.Namespace, meter: Meter) -> Iterator[Callable[[Sample], None]]:
    """Nothing with --json, one picture redrawn on a terminal, else a picture for each sample, one below the other."""
    if options.json:
        yield lambda sample: None
    elif sys.stdout.isatty() and not options.once:
        from rich.live import Live
        from rich.text import Text

        with Live(Text(""), auto_refresh=False, screen=False) as live:
            yield lambda sample: live.update(Text("\n".join(_picture(sample, meter))), refresh=True)
    else:
        yield lambda sample: print("\n".join(_picture(sample, meter)), flush=True)


def _picture(sample: Sample, meter: Meter) -> list[str]:
    """The sample as lines of text: a bar and the figures of each device, then its processes."""
    cpu = sample.cpu
    figures = [f"{cpu.utilisation:>4.0%}", _of(cpu.memory_used, cpu.memory_total), _clock(cpu.clock)]
    figures += [_degrees(cpu.temperature), _watts(cpu.power, None, assumed=cpu.power_assumed)]
    lines = [f"CPU    {_bar(cpu.utilisation)} " + "  ".join(filter(None, figures))]
    for gpu in sample.gpus:
        lines += _gpu_lines(gpu)
    if not sample.gpus:
        lines.append(say("watch.no_gpu", reason=_reason(meter.nvml)))
    return lines


def _gpu_lines(gpu: GpuSample) -> list[str]:
    name = gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    if gpu.state == "lost":
        return [f"GPU {gpu.index}  {name}: {say('watch.lost')}"]
    figures = [
        "" if gpu.utilisation is None else f"{gpu.utilisation:>4.0%}",
        _of(gpu.memory_used, gpu.memory_total),
        _clock(gpu.sm_clock),
        _degrees(gpu.temperature),
        _watts(gpu.power, gpu.power_limit),
        name,
    ]
    lines = [f"GPU {gpu.index}  {_bar(gpu.utilisation or 0.0)} " + "  ".join(filter(None, figures))]
    if gpu.throttle:
        reasons = ", ".join(say(f"watch.throttle.{each.replace(' ', '_')}") for each in gpu.throttle)
        lines.append("       " + say("watch.throttled", reasons=reasons))
    for each in gpu.processes:
        memory = "" if each.memory is None else f"  {bytes_text(each.memory)}"
        lines.append(f"       {each.pid:>8} {each.name}{memory}")
    return lines


def _bar(share: float, width: int = 20) -> str:
    full = round(max(0.0, min(1.0, share)) * width)
    return "█" * full + "░" * (width - full)


def _of(used: int | None, total: int | None) -> str:
    return "" if used is None or not total else f"{used / 2**30:.1f}/{total / 2**30:.1f} GiB"


def _clock(hertz: float | None) -> str:
    return "" if hertz is None else f"{hertz / 1e6:.0f} MHz"


def _degrees(celsius: float | None) -> str:
    return "" if celsius is None else f"{celsius:.0f} °C"


def _watts(power: float | None, limit: float | None, assumed: bool = False) -> str:
    if power is None:
        return ""
    if assumed:
        return f"~{power:.0f} W"
    return f"{power:.0f}/{limit:.0f} W" if limit else f"{power:.0f} W"


def _reason(problem: str) -> str:
    key = {"missing": "missing", "no driver": "no_driver", "mismatch": "mismatch", "": "none"}.get(problem)
    return say(f"watch.nvml.{key}") if key else problem


# --- at the end -----------------------------------------------------------------------------------------------------


def _summary(recording: Recording, options: argparse.Namespace) -> dict[str, object]:
    from fromzero.records import to_json

    values = to_json(recording)
    del values["samples"]
    cost = recording.kwh * options.tariff if options.tariff else None
    return {**values, "cost": cost, "currency": options.currency if options.tariff else ""}


def _sentences(recording: Recording, options: argparse.Namespace) -> Sequence[str]:
    lines = [say("watch.done", time=seconds_text(recording.seconds), count=recording.count)]
    for gpu in recording.gpus:
        busy = "-" if gpu.utilisation_mean is None else f"{gpu.utilisation_mean:.0%}"
        power = "-" if gpu.power_mean is None else f"{gpu.power_mean:.0f} W"
        figures = {"busy": busy, "power": power, "memory": bytes_text(gpu.memory_peak), "kwh": f"{gpu.kwh:.6f}"}
        lines.append(say("watch.gpu", index=gpu.index, name=gpu.name, **figures))
        if gpu.lost:
            lines.append(say("watch.lost_at_end", index=gpu.index))
    busy = f"{recording.cpu_utilisation_mean:.0%}"
    lines.append(say("watch.cpu", busy=busy, memory=bytes_text(recording.memory_peak), kwh=f"{recording.cpu_kwh:.6f}"))
    if recording.cpu_power_assumed:
        lines.append(say("watch.assumed"))
    money = f" = {recording.kwh * options.tariff:.4f} {options.currency}" if options.tariff else ""
    return [*lines, say("watch.energy", kwh=f"{recording.kwh:.6f}", money=money)]
