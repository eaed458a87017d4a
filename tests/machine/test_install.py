"""The choice of a wheel: every trap of the research file, and every rule over the whole product."""

import itertools
import random

import pytest

from fromzero.errors import UsageError
from fromzero.facts.cards import catalogue, find_card
from fromzero.facts.wheels import find_wheel, first_driver, last_branch, partner, version, wheels
from fromzero.machine.detect import Gpu, Machine
from fromzero.machine.install import choose_wheel

HOST = "https://download.pytorch.org/whl"


def machine(*cards, os="linux", driver="", python="3.12", glibc="2.35", **more):
    gpus = tuple(_gpu(name) for name in cards)
    return Machine(os=os, python=python, glibc="" if os == "windows" else glibc, driver=driver, gpus=gpus, **more)


def _gpu(name):
    card = find_card(name)
    return Gpu(name=card.title, memory_bytes=card.memory_bytes, capability=card.compute_capability)


SYSTEMS = pytest.mark.parametrize("os", ["linux", "windows", "wsl"])
DRIVER_FOR_CUDA12 = {"linux": "535.183.01", "windows": "537.13", "wsl": "537.13"}


@SYSTEMS
def test_pascal_gets_the_last_wheel_with_its_kernels(os):  # traps 1 and 2
    choice = choose_wheel(machine("GTX 1080 Ti", os=os, driver="580.95"))
    assert (choice.torch, choice.torchvision, choice.cuda_tag) == ("2.14", "0.29", "cu126")
    assert choice.index_url == f"{HOST}/cu126"
    assert any("580" in line and "2.14 cu126" in line for line in choice.warnings)


@SYSTEMS
def test_volta_gets_cu126(os):  # trap 1
    choice = choose_wheel(machine("Tesla V100-SXM2-16GB", os=os, driver=DRIVER_FOR_CUDA12[os]))
    assert (choice.torch, choice.cuda_tag) == ("2.14", "cu126")
    pinned = choose_wheel(machine("Tesla V100-SXM2-16GB", os=os, driver=DRIVER_FOR_CUDA12[os]), "2.10")
    assert pinned.cuda_tag == "cu128"


@SYSTEMS
def test_blackwell_needs_its_own_first_driver(os):  # trap 1
    first = {"linux": "570.26", "windows": "570.65", "wsl": "570.65"}[os]
    choice = choose_wheel(machine("RTX 5090", os=os, driver=first))
    assert (choice.torch, choice.cuda_tag) == ("2.11", "cu128")
    assert any("580" in line and "2.14" in line for line in choice.unlocks)
    with pytest.raises(UsageError) as raised:
        choose_wheel(machine("RTX 5090", os=os, driver="566.36"))
    assert first in raised.value.fix


def test_blackwell_floor_differs_between_systems():
    assert choose_wheel(machine("RTX 5090", driver="570.30")).torch == "2.11"
    with pytest.raises(UsageError):
        choose_wheel(machine("RTX 5090", os="windows", driver="570.30"))


@SYSTEMS
def test_blackwell_with_a_current_driver_gets_the_newest(os):
    assert choose_wheel(machine("RTX 5090", os=os, driver="581.15")).torch == "2.14"


def test_windows_names_the_index_and_says_why():  # trap 3
    choice = choose_wheel(machine("RTX 4070", os="windows", driver="581.15"))
    assert all(f"--index-url {HOST}/cu13" in command for command in choice.commands)
    assert any("CPU-only" in line for line in choice.why)
    assert choice.env == {}


@pytest.mark.parametrize(("card", "driver"), [("GTX 1080", "590.44"), ("Tesla V100-PCIE-32GB", "595.10")])
@SYSTEMS
def test_driver_that_dropped_the_card_is_refused(card, driver, os):  # trap 4
    with pytest.raises(UsageError) as raised:
        choose_wheel(machine(card, os=os, driver=driver))
    assert "580" in raised.value.fix


def test_kepler_ends_with_driver_470():  # trap 4
    k80 = Gpu(name="Tesla K80", memory_bytes=12 << 30, capability="3.7")
    choice = choose_wheel(Machine(os="linux", python="3.11", glibc="2.31", driver="470.256.02", gpus=(k80,)))
    assert (choice.torch, choice.cuda_tag) == ("2.4", "cu118")
    with pytest.raises(UsageError):
        choose_wheel(Machine(os="linux", python="3.11", glibc="2.31", driver="535.1", gpus=(k80,)))


@pytest.mark.parametrize("os", ["linux", "wsl"])
def test_ubuntu_1804_stops_at_2_6(os):  # trap 5
    choice = choose_wheel(machine("RTX 3090", os=os, driver=DRIVER_FOR_CUDA12[os], python="3.10", glibc="2.27"))
    assert (choice.torch, choice.cuda_tag) == ("2.6", "cu124")
    assert any("2.28" in line for line in choice.unlocks)


def test_glibc_of_an_old_system_counts_for_the_cpu_too():
    assert choose_wheel(machine(glibc="2.27")).torch == "2.6"


@SYSTEMS
def test_pairs_come_from_one_index(os):  # traps 6 and 7
    for torch, vision in {"2.0": "0.15", "2.6": "0.21", "2.14": "0.29"}.items():
        python = "3.11"
        choice = choose_wheel(machine("RTX 3090", os=os, driver="581.15", python=python), torch)
        assert choice.torchvision == vision
        for command in choice.commands:
            assert f'"torch=={torch}.*" "torchvision=={vision}.*"' in command
            assert command.endswith(f"--index-url {choice.index_url}")
    assert any("torchaudio" in line for line in choice.warnings)


def test_torch_2_0_needs_old_python_and_numpy():  # trap 7
    choice = choose_wheel(machine("RTX 3090", driver="535.1", python="3.11"), "2.0")
    assert all('"numpy<2"' in command for command in choice.commands)
    with pytest.raises(UsageError) as raised:
        choose_wheel(machine("RTX 3090", driver="535.1", python="3.12"), "2.0")
    assert "3.11" in raised.value.cause
    assert "2.14" in raised.value.fix


@pytest.mark.parametrize("os", ["linux", "wsl"])
def test_library_path_is_to_be_unset(os):  # trap 8
    choice = choose_wheel(machine("RTX 3090", os=os, driver="581.15"))
    assert choice.env == {"LD_LIBRARY_PATH": None}


def test_wsl_takes_the_windows_driver_and_the_linux_wheel():  # trap 9
    choice = choose_wheel(machine("RTX 3060 12GB", os="wsl", driver="528.33"))
    assert choice.cuda_tag == "cu126"
    assert any("Windows" in line for line in choice.warnings)
    with pytest.raises(UsageError):  # 526.0 would do for Linux, not for the driver of Windows
        choose_wheel(machine("RTX 3060 12GB", os="wsl", driver="526.0"), "2.14")
    assert choose_wheel(machine("RTX 3060 12GB", driver="526.0"), "2.14").cuda_tag == "cu126"


def test_index_of_a_mirror(monkeypatch):  # trap 10
    monkeypatch.setenv("FROMZERO_WHEEL_INDEX", "https://mirror.example/pytorch-wheels")
    choice = choose_wheel(machine("RTX 3090", driver="581.15"))
    assert choice.index_url == f"https://mirror.example/pytorch-wheels/{choice.cuda_tag}"
    assert all(choice.index_url in command for command in choice.commands)


def test_old_driver_falls_back_to_cuda_11():
    choice = choose_wheel(machine("RTX 3090", driver="470.199.02", python="3.11"))
    assert (choice.torch, choice.cuda_tag) == ("2.7", "cu118")
    assert any("525.60.13" in line or "580" in line for line in choice.unlocks)


def test_no_card_gets_the_cpu_wheel():
    choice = choose_wheel(machine())
    assert (choice.torch, choice.cuda_tag, choice.index_url, choice.env) == ("2.14", "cpu", f"{HOST}/cpu", {})


def test_card_without_driver_says_which_to_install():
    choice = choose_wheel(machine("RTX 5070"))
    assert choice.torch == "2.14"
    assert any("580" in line for line in choice.warnings)
    assert any("no driver" in line for line in choose_wheel(machine(gpu_seen=True)).warnings)


def test_several_cards_get_one_wheel_or_a_refusal():
    assert choose_wheel(machine("GTX 1080 Ti", "RTX 4090", driver="580.95")).cuda_tag == "cu126"
    with pytest.raises(UsageError) as raised:
        choose_wheel(machine("GTX 1080 Ti", "RTX 5090", driver="580.95"))
    assert "No wheel" in raised.value.fix


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"driver": "12.2"}, "driver_is_cuda"),
        ({"driver": "newest"}, "bad_version"),
        ({"python": "three"}, "bad_version"),
        ({"python": "3.15"}, "no_wheel"),
        ({"glibc": "musl"}, "no_wheel"),
        ({"processor": "aarch64"}, "no_wheel"),
        ({"os": "macos"}, "no_wheel"),
    ],
)
def test_impossible_machines(changed, code):
    with pytest.raises(UsageError) as raised:
        choose_wheel(machine("RTX 3090", **{"driver": "580.95", **changed}))
    assert raised.value.code == code
    assert raised.value.fix


@pytest.mark.parametrize("torch", ["2.15", "3.0", "x"])
def test_unverified_and_unknown_releases_are_refused(torch):
    with pytest.raises(UsageError):
        choose_wheel(machine("RTX 3090", driver="580.95"), torch)


def test_exact_release_stays_exact():
    choice = choose_wheel(machine("RTX 3090", driver="580.95"), "2.9.1")
    assert choice.torch == "2.9.1"
    assert '"torch==2.9.1"' in choice.commands[0]


def test_intel_macs_end_at_2_2():
    choice = choose_wheel(Machine(os="macos", processor="x86_64", python="3.11"))
    assert (choice.torch, choice.cuda_tag, choice.index_url) == ("2.2", "cpu", "")
    assert "--index-url" not in choice.commands[0]
    assert choose_wheel(Machine(os="macos", processor="aarch64", python="3.12")).torch == "2.14"


DRIVERS = (
    "",
    "390.157",
    "450.80.02",
    "470.256.02",
    "525.60.13",
    "528.33",
    "560.94",
    "570.26",
    "570.65",
    "580.95",
    "595.1",
)
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
GLIBCS = ("2.17", "2.27", "2.31", "2.39")


def _product():
    """One card of each compute capability, times everything; every other card at random, always the same."""
    by_capability = {card.compute_capability: card for card in catalogue()}
    chosen = random.Random(7)
    whole = list(itertools.product(by_capability.values(), DRIVERS, ("linux", "windows", "wsl"), PYTHONS, GLIBCS))
    sample = chosen.sample(whole, 1500)
    sample += [
        (card, chosen.choice(DRIVERS), chosen.choice(("linux", "windows", "wsl")), chosen.choice(PYTHONS), "2.35")
        for card in catalogue()
    ]
    return sample


def test_every_answer_obeys_every_rule_or_is_a_refusal_with_a_reason():
    answers = refusals = 0
    for card, driver, os, python, glibc in _product():
        gpu = Gpu(name=card.title, memory_bytes=card.memory_bytes, capability=card.compute_capability)
        asked = Machine(os=os, python=python, glibc="" if os == "windows" else glibc, driver=driver, gpus=(gpu,))
        try:
            choice = choose_wheel(asked)
        except UsageError as error:
            refusals += 1
            assert error.code == "no_wheel"
            assert error.values["reason"]
            assert error.values["nearest"]
            assert not any(_obeys(wheel, asked) for wheel in wheels()), (asked, error)
            continue
        answers += 1
        wheel = find_wheel(choice.torch, choice.cuda_tag)
        assert _obeys(wheel, asked), (asked, choice)
        newer = [each for each in wheels() if version(each.torch) > version(wheel.torch)]
        assert not any(_obeys(each, asked) for each in newer), (asked, choice)
        assert choice.torchvision == partner(choice.torch)
        assert choice.index_url == f"{HOST}/{choice.cuda_tag}"
    assert answers > 100
    assert refusals > 100


def _obeys(wheel, asked):
    """The rules once more, written from the research file and not from the code."""
    card = version(asked.gpus[0].capability)
    windows = asked.os == "windows"
    kernels = [version(each) for each in (wheel.kernels_windows if windows else wheel.kernels_linux)]
    floor = version(wheel.driver_linux if asked.os == "linux" else wheel.driver_windows)
    first = first_driver(asked.gpus[0].capability, asked.os)
    branch = last_branch(asked.gpus[0].capability)
    driver = version(asked.driver) if asked.driver else None
    return (
        wheel.verified
        and any(each[0] == card[0] and each[1] <= card[1] for each in kernels)
        and (driver is None or driver >= floor)
        and (driver is None or not first or driver >= version(first))
        and (driver is None or branch is None or driver[0] <= branch)
        and version(wheel.python_first) <= version(asked.python) <= version(wheel.python_last)
        and (windows or version(asked.glibc) >= version(wheel.glibc))
    )
