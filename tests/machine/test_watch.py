"""The meter on this machine, what it adds up, and what other programs get."""

import csv
import dataclasses
import io
import json
import urllib.error
import urllib.request

import pytest

from fromzero.errors import UsageError
from fromzero.machine.export import COLUMNS, Log, metrics_text, serve_metrics
from fromzero.machine.watch import (
    CpuSample,
    GpuSample,
    Meter,
    Process,
    Recording,
    Sample,
    Sampler,
    _Rapl,
    _Sums,
    own_memory,
)

CPU = CpuSample(utilisation=0.5, memory_used=1 << 30, memory_total=4 << 30, power=30.0, power_assumed=True)
GPU = GpuSample(
    index=0,
    name='RTX "3090"',
    utilisation=0.9,
    memory_used=5 << 30,
    memory_total=24 << 30,
    power=300.0,
    throttle=("power",),
    processes=(Process(pid=7, name="python", memory=4 << 30), Process(pid=8, name="x")),
)
SAMPLE = Sample(time=1.7e9, cpu=CPU, gpus=(GPU, GpuSample(index=1, name="RTX 4090", state="lost")))
EMPTY = Recording(
    seconds=2, count=1, kwh=1e-6, cpu_kwh=0, cpu_power_assumed=True, cpu_utilisation_mean=0, memory_peak=0
)


def test_meter_sees_this_machine():
    with Meter() as meter:
        sample = meter.sample()
        recording = meter.recording()
    assert 0 <= sample.cpu.utilisation <= 1
    assert 0 < sample.cpu.memory_used < sample.cpu.memory_total
    assert recording.count == 1
    assert recording.nvml or sample.gpus


def test_energy_is_power_times_time(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr("fromzero.machine.watch.time.monotonic", lambda: next(clock))
    sums = _Sums()
    for watts in (100.0, 200.0, None):  # nothing before the first: its own; then the mean of two
        sums.add(dataclasses.replace(SAMPLE, gpus=(dataclasses.replace(GPU, power=watts),)))
    recording = sums.recording("", ())
    assert recording.gpus[0].kwh * 3.6e6 == pytest.approx(100 * 1 + 150 * 2)
    assert recording.cpu_kwh * 3.6e6 == pytest.approx(30 * 4)
    assert recording.cpu_utilisation_mean == pytest.approx(0.5)
    assert recording.gpus[0].power_mean == pytest.approx(150)
    assert recording.gpus[0].throttle == ("power",)


def test_cpu_energy_counter_wraps(tmp_path):
    package = tmp_path / "sys/class/powercap/intel-rapl:0"
    part = tmp_path / "sys/class/powercap/intel-rapl:0:0"
    for folder in (package, part):
        folder.mkdir(parents=True)
        (folder / "energy_uj").write_text("90000000")
        (folder / "max_energy_range_uj").write_text("100000000")
    counter = _Rapl(tmp_path)
    counter._last = (counter._last[0] - 10, counter._last[1])
    (package / "energy_uj").write_text("40000000")  # 50 J further, once around
    assert counter.watts() == pytest.approx(5.0, rel=0.05)
    (package / "energy_uj").unlink()
    assert counter.watts() is None
    assert _Rapl(tmp_path / "none").watts() is None


def test_sampler_thins_out_but_counts_all():
    sampler = Sampler(interval=0.0, keep=16)
    sampler._meter.open()
    for number in range(100):
        sampler._take(number, last=number == 99)
    recording = sampler._meter.recording(tuple(sampler._samples))
    assert recording.count == 100
    assert len(recording.samples) < 16
    times = [each.time for each in recording.samples]
    assert times == sorted(times)


def test_sampler_never_disturbs_what_it_records():
    def fail(sample):
        raise RuntimeError("disk full")

    with Sampler(interval=0.01, each=fail) as sampler:
        sampler._thread.join(5)
    assert "disk full" in sampler.problem
    assert sampler.recording.count == 1


def test_own_memory():
    assert own_memory(GPU, 7) == 4 << 30
    assert own_memory(GPU, 8) is None
    assert own_memory(GPU) is None


def test_csv_log_grows(tmp_path):
    path = tmp_path / "deep" / "log.csv"
    for _ in range(2):
        with Log(path) as log:
            log.write(SAMPLE)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["device"] for row in rows] == ["cpu", "cuda:0", "cuda:1"] * 2
    assert rows[1]["name"] == 'RTX "3090"'
    assert rows[1]["processes"] == "7:python:4294967296;8:x:"
    assert (rows[2]["state"], rows[2]["power_watts"]) == ("lost", "")


def test_jsonl_log(tmp_path):
    with Log(tmp_path / "log.jsonl") as log:
        log.write(SAMPLE)
    (line,) = io.StringIO((tmp_path / "log.jsonl").read_text())
    assert json.loads(line)["gpus"][0]["power"] == 300


def test_other_logs_are_refused(tmp_path):
    with pytest.raises(UsageError):
        Log(tmp_path / "log.txt")


def test_prometheus_text():
    text = metrics_text(SAMPLE, EMPTY)
    assert 'fromzero_gpu_power_watts{gpu="0",name="RTX \\"3090\\""} 300\n' in text
    assert 'fromzero_gpu_up{gpu="1",name="RTX 4090"} 0\n' in text
    assert 'reason="power"} 1' in text
    assert "# TYPE fromzero_energy_joules_total counter\nfromzero_energy_joules_total 3.6\n" in text
    parser = pytest.importorskip("prometheus_client.parser")
    families = {each.name for each in parser.text_string_to_metric_families(text)}
    assert {"fromzero_cpu_utilisation_ratio", "fromzero_gpu_memory_used_bytes"} <= families


def test_prometheus_page():
    with serve_metrics("127.0.0.1", 0) as (publish, address):
        publish(SAMPLE, EMPTY)
        with urllib.request.urlopen(address) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert answer.read().decode() == metrics_text(SAMPLE, EMPTY)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(address.replace("/metrics", "/other"))
        with pytest.raises(UsageError), serve_metrics("127.0.0.1", int(address.split(":")[2].split("/")[0])):
            pass
    with pytest.raises(UsageError), serve_metrics("127.0.0.1", 99999):
        pass
