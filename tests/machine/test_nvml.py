"""Our code and the real nvidia-ml-py on scripted machines (conftest.py, nvml_stub.c)."""

import csv
import json

import pytest

LOOK = """
import json, sys
from pathlib import Path
from fromzero.machine.detect import this_card, this_machine
from fromzero.records import to_json
machine = this_machine(Path(ROOT))
print(json.dumps({**to_json(machine), "card": this_card().title if machine.gpus else ""}))
"""


def looked(play, script, root="/"):
    return json.loads(play(script, code=LOOK.replace("ROOT", repr(str(root)))).stdout)


def test_one_old_card_with_driver_535(play, machines):
    seen = looked(play, machines["GTX_1080_TI"])
    assert (seen["driver"], seen["nvml"], seen["lost"]) == ("535.183.01", "", 0)
    assert [(gpu["name"], gpu["capability"]) for gpu in seen["gpus"]] == [("NVIDIA GeForce GTX 1080 Ti", "6.1")]
    assert seen["card"] == "NVIDIA GeForce GTX 1080 Ti"
    choice = json.loads(play(machines["GTX_1080_TI"], "setup", "--json").stdout)
    assert (choice["torch"], choice["cuda_tag"]) == ("2.14", "cu126")


def test_two_cards(play, machines):
    seen = looked(play, machines["TWO_CARDS"])
    assert [gpu["name"] for gpu in seen["gpus"]] == ["NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 4090"]
    sample = json.loads(play(machines["TWO_CARDS"], "watch", "--once", "--json").stdout)["sample"]
    first, second = sample["gpus"]
    assert (first["utilisation"], first["power"], first["power_limit"]) == (0.97, 340.0, 350.0)
    assert first["memory_used"] == 8000 << 20
    assert [(each["pid"], each["memory"]) for each in first["processes"]] == [(1, 7000 << 20)]
    assert second["processes"] == []


def test_wsl_tells_less(play, machines, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/version").write_text("Linux version 5.15.153.1-microsoft-standard-WSL2")
    seen = looked(play, machines["WSL"], tmp_path)
    assert (seen["os"], seen["driver"], seen["gpus"][0]["power_limit"]) == ("wsl", "581.15", 0.0)
    (gpu,) = json.loads(play(machines["WSL"], "watch", "--once", "--json").stdout)["sample"]["gpus"]
    assert (gpu["power"], gpu["utilisation"], gpu["sm_clock"]) == (None, None, None)
    assert gpu["processes"][0]["memory"] is None
    assert "RTX 4070" in play(machines["WSL"], "watch", "--once").stdout


def test_throttling_is_named(play, machines):
    shown = play(machines["THROTTLING"], "watch", "--once").stdout
    assert "held back by: power limit, temperature" in shown
    assert "119/120 W" in shown
    found = json.loads(play(machines["THROTTLING"], "doctor", "--json").stdout)["findings"]
    fixes = {each["code"]: each["fix"] for each in found}
    assert "nvidia-smi -i 0 -pl 170" in fixes["power_limit"]
    assert "pcie_width" in fixes


@pytest.mark.parametrize(("name", "word"), [("MISMATCH", "mismatch"), ("NO_DRIVER", "no driver")])
def test_nvml_that_does_not_answer_is_named(play, machines, name, word):
    seen = looked(play, machines[name])
    assert (seen["nvml"], seen["gpus"], seen["driver"]) == (word, [], "")
    watched = play(machines[name], "watch", "--once")
    assert watched.returncode == 0
    assert "fromzero doctor" in watched.stdout
    codes = [each["code"] for each in json.loads(play(machines[name], "doctor", "--json").stdout)["findings"]]
    assert ("driver_mismatch" in codes) == (word == "mismatch")


def test_card_lost_in_mid_run(play, machines, tmp_path):
    """The second card falls off the bus after some calls: the log ends its figures, the first goes on."""
    script = machines["TWO_CARDS"] + "lost_after 24\n"
    log = tmp_path / "log.csv"
    words = ["watch", "--seconds", "1", "--interval", "0.1", "--log", str(log), "--tariff", "0.6", "--json"]
    done = play(script, *words)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["recording"]["gpus"]
    assert (first["lost"], second["lost"]) == (False, True)
    assert (second["name"], second["memory_peak"]) == ("NVIDIA GeForce RTX 4090", 300 << 20)
    assert first["kwh"] > second["kwh"] > 0
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    states = [row["state"] for row in rows if row["device"] == "cuda:1"]
    assert states[0] == "ok"
    assert states[-1] == "lost"
    assert {row["state"] for row in rows if row["device"] == "cuda:0"} == {"ok"}


def test_card_lost_from_the_start(play, machines):
    script = machines["TWO_CARDS"] + "lost_after 0\n"
    seen = looked(play, script)
    assert (len(seen["gpus"]), seen["lost"]) == (1, 1)
    found = json.loads(play(script, "doctor", "--json").stdout)["findings"]
    assert "card_lost" in [each["code"] for each in found]


SAMPLE = """
import json, time
from fromzero.machine.watch import Sampler, own_memory
from fromzero.records import to_json
with Sampler(interval=0.05) as sampler:
    time.sleep(0.4)
recording = sampler.stop()
assert recording is sampler.stop()
print(json.dumps(to_json(recording)))
"""


def test_sampler_records_a_run(play, machines):
    recording = json.loads(play(machines["TWO_CARDS"], code=SAMPLE).stdout)
    first, second = recording["gpus"]
    assert recording["count"] == len(recording["samples"]) >= 2
    assert first["kwh"] == pytest.approx(340 * recording["seconds"] / 3.6e6, rel=0.1)
    assert first["power_mean"] == pytest.approx(340)
    assert second["utilisation_mean"] == 0
    assert recording["kwh"] == pytest.approx(first["kwh"] + second["kwh"] + recording["cpu_kwh"])


# torch at its documented face, with a device that takes no time: what bench makes of it is what is tested.
BENCH = """
import json, types
from fromzero.commands.bench import specification
from fromzero.machine.bench import gpu_bench
from fromzero.records import to_json

class Tensor:
    def copy_(self, other, non_blocking=False):
        assert isinstance(other, Tensor)

def make(*shape, device=None, dtype=None, pin_memory=False):
    return Tensor()

class Cuda(types.SimpleNamespace):
    synchronized = 0
    def synchronize(self, device):
        Cuda.synchronized += 1

dtype = lambda size: types.SimpleNamespace(itemsize=size)
torch = types.SimpleNamespace(
    __version__="2.14.1+cu130", float32=dtype(4), float16=dtype(2), bfloat16=dtype(2),
    randn=make, ones=make, empty=make, randn_like=lambda t: Tensor(), empty_like=lambda t: Tensor(),
    mm=lambda a, b, out: None,
    backends=types.SimpleNamespace(cuda=types.SimpleNamespace(matmul=types.SimpleNamespace(
        allow_tf32=False, allow_fp16_accumulation=False))),
    cuda=Cuda(
        get_device_capability=lambda device: CAPABILITY, mem_get_info=lambda device: (8 << 30, 12 << 30),
        get_device_properties=lambda index: types.SimpleNamespace(
            name="NAME", total_memory=MEMORY << 20, uuid="0"),
    ),
)
device = gpu_bench(torch, 0, 0.01)
assert Cuda.synchronized > 10
assert torch.backends.cuda.matmul.allow_tf32 is False
print(json.dumps({**to_json(device), "text": specification(device)}))
"""


def benched(play, script, name, memory, capability):
    code = BENCH.replace("NAME", name).replace("MEMORY", str(memory)).replace("CAPABILITY", repr(capability))
    done = play(script, code=code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bench_says_what_holds_a_card_back(play, machines):
    found = benched(play, machines["THROTTLING"], "NVIDIA GeForce RTX 3060", 12288, (8, 6))
    assert found["card"] == "NVIDIA GeForce RTX 3060 12 GB"
    assert set(found["rates"]) == {"fp32", "tf32", "fp16", "fp16-acc16", "bf16"}
    assert set(found["shares"]) == {*found["rates"], "bandwidth"}
    assert found["to_device"] > 0
    assert (
        "of specification: power limit 120 W of 170 W; PCIe x8 of x16; clocks held down by: power limit"
        in found["text"]
    )


def test_bench_of_an_old_card_leaves_out_what_it_lacks(play, machines):
    found = benched(play, machines["GTX_1080_TI"], "NVIDIA GeForce GTX 1080 Ti", 11264, (6, 1))
    assert set(found["rates"]) == {"fp32", "fp16", "fp16-acc16"}
    assert set(found["shares"]) == {"fp32", "bandwidth"}
    assert found["reasons"] == []
    unknown = benched(play, machines["GTX_1080_TI"], "NVIDIA Riva 128", 4, (6, 1))
    assert unknown["shares"] == {}
    assert "in no catalogue" in unknown["text"]
