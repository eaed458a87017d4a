"""Samples for other programs: a log file, one row a device and sample, and a page in Prometheus' text format."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from fromzero.errors import UsageError
from fromzero.files import disk_error
from fromzero.machine.watch import Recording, Sample
from fromzero.records import to_json

COLUMNS = (
    "time", "device", "name", "state", "utilisation", "memory_used_bytes", "memory_total_bytes", "temperature_celsius",
    "power_watts", "power_limit_watts", "sm_clock_hertz", "memory_clock_hertz", "throttle", "processes",
)  # fmt: skip


class Log:
    """A file that grows by a sample at a time, flushed each time: .csv with a row for each device, .jsonl with a line
    for each sample. An existing file is continued."""

    def __init__(self, path: Path) -> None:
        if path.suffix not in (".csv", ".jsonl"):
            raise UsageError("watch_log_suffix", path=path)
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Log:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8", newline="")
            if self._path.suffix == ".csv" and self._file.tell() == 0:
                self._write_rows([COLUMNS])
        except OSError as error:
            raise disk_error(self._path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def write(self, sample: Sample) -> None:
        assert self._file is not None
        try:
            if self._path.suffix == ".csv":
                self._write_rows(_rows(sample))
            else:
                self._file.write(json.dumps(to_json(sample), ensure_ascii=False) + "\n")
                self._file.flush()
        except OSError as error:
            raise disk_error(self._path, error) from error

    def _write_rows(self, rows: Any) -> None:
        assert self._file is not None
        csv.writer(self._file, lineterminator="\n").writerows(rows)
        self._file.flush()


def _rows(sample: Sample) -> Iterator[list[object]]:
    moment = datetime.fromtimestamp(sample.time, timezone.utc).isoformat(timespec="milliseconds")
    cpu = sample.cpu
    yield [
        moment, "cpu", "", "ok", round(cpu.utilisation, 4), cpu.memory_used, cpu.memory_total, cpu.temperature,
        cpu.power, None, cpu.clock, None, "", "",
    ]  # fmt: skip
    for each in sample.gpus:
        processes = ";".join(f"{one.pid}:{one.name}:{one.memory or ''}" for one in each.processes)
        yield [
            moment, f"cuda:{each.index}", each.name, each.state, each.utilisation, each.memory_used,
            each.memory_total, each.temperature, each.power, each.power_limit, each.sm_clock, each.memory_clock,
            ";".join(each.throttle), processes,
        ]  # fmt: skip


# --- Prometheus -----------------------------------------------------------------------------------------------------

# Name of the metric -> its sample's field, and what it is.
_GPU_METRICS = {
    "fromzero_gpu_utilisation_ratio": ("utilisation", "Share of time in which a kernel ran."),
    "fromzero_gpu_memory_used_bytes": ("memory_used", "Memory in use."),
    "fromzero_gpu_memory_total_bytes": ("memory_total", "Memory of the card."),
    "fromzero_gpu_temperature_celsius": ("temperature", "Temperature of the chip."),
    "fromzero_gpu_power_watts": ("power", "Power drawn."),
    "fromzero_gpu_power_limit_watts": ("power_limit", "Power limit in force."),
    "fromzero_gpu_sm_clock_hertz": ("sm_clock", "Clock of the SMs."),
    "fromzero_gpu_memory_clock_hertz": ("memory_clock", "Clock of the memory."),
}
_CPU_METRICS = {
    "fromzero_cpu_utilisation_ratio": ("utilisation", "Share of all cores' time."),
    "fromzero_memory_used_bytes": ("memory_used", "Main memory in use."),
    "fromzero_memory_total_bytes": ("memory_total", "Main memory."),
    "fromzero_cpu_power_watts": ("power", "Power of the CPU; assumed where it cannot be measured."),
}


def metrics_text(sample: Sample, recording: Recording) -> str:
    """A sample in Prometheus' text exposition format."""
    lines: list[str] = []
    for name, (what, help_text) in _CPU_METRICS.items():
        _metric(lines, name, "gauge", help_text, [("", getattr(sample.cpu, what))])
    labelled = [(f'{{gpu="{each.index}",name="{_label(each.name)}"}}', each) for each in sample.gpus]
    up = [(label, int(each.state == "ok")) for label, each in labelled]
    _metric(lines, "fromzero_gpu_up", "gauge", "1 if the card answers, 0 if it was lost.", up)
    for name, (what, help_text) in _GPU_METRICS.items():
        _metric(lines, name, "gauge", help_text, [(label, getattr(each, what)) for label, each in labelled])
    throttled = [
        (f'{label[:-1]},reason="{_label(reason)}"}}', 1) for label, each in labelled for reason in each.throttle
    ]
    _metric(lines, "fromzero_gpu_throttled", "gauge", "1 for each reason that holds the clocks down.", throttled)
    joules = [("", recording.kwh * 3.6e6)]
    _metric(lines, "fromzero_energy_joules_total", "counter", "Energy since the watch began.", joules)
    return "\n".join(lines) + "\n"


def _metric(lines: list[str], name: str, kind: str, help_text: str, values: list[tuple[str, Any]]) -> None:
    known = [(label, value) for label, value in values if value is not None]
    if known:
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{label} {float(value):.10g}" for label, value in known]


def _label(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@contextlib.contextmanager
def serve_metrics(host: str, port: int) -> Iterator[tuple[Callable[[Sample, Recording], None], str]]:
    """A web server for Prometheus while the block runs: what to call with each sample, and its address."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    page = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.split("?")[0] not in ("/metrics", "/"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Silent: standard error is the user's."""

    def publish(sample: Sample, recording: Recording) -> None:
        nonlocal page
        page = metrics_text(sample, recording).encode()

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise UsageError("watch_port", host=host, port=port, reason=getattr(error, "strerror", "") or error) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield publish, f"http://{host}:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()
