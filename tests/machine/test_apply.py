"""setup --apply with a tiny torch of our own in a local folder: real environments, real pip, no network."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from fromzero.errors import UsageError
from fromzero.machine import apply as module
from fromzero.machine.apply import RECEIPT, SetupError, apply, python_of
from fromzero.machine.detect import Gpu, Machine
from fromzero.machine.install import choose_wheel

MACHINE = Machine(os="linux", python="3.12", glibc="2.35")

# As much of torch as the proof asks for; every kernel is exact.
TORCH = """
__version__ = "VERSION"
BROKEN
class Tensor:
    def __init__(self, *shape, **_): pass
    def same(self, *_, **__): return self
    to = double = cpu = abs = max = same
    def __sub__(self, other): return Zero()
    def __truediv__(self, other): return self
    def __float__(self): return 1.0
class Zero(Tensor):
    def __float__(self): return ERROR
class Namespace:
    def __init__(self, **values): vars(self).update(values)
float32 = float16 = bfloat16 = "dtype"
randn = Tensor
def tensor(values): return values
def mm(a, b): return Tensor()
version = Namespace(cuda=None)
cuda = Namespace(is_available=lambda: False)
backends = Namespace(cuda=Namespace(matmul=Namespace()), cudnn=Namespace())
nn = Namespace(functional=Namespace(conv2d=lambda a, b: Tensor()))
"""
VISION = """
__version__ = "0.29.1+cpu"
BROKEN
class ops:
    nms = staticmethod(lambda boxes, scores, limit: [0])
"""


def wheel(folder, name, number, code):
    info = f"{name}-{number}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", code)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "".join(f"{each},,\n" for each in (*file.namelist(), f"{info}/RECORD")))


def wheels(folder, torch="", error="0.0", vision="", number="2.14.1+cpu"):
    """A folder with a pair of wheels; `torch` and `vision` are code that breaks them, `error` what kernels are off."""
    folder.mkdir()
    code = TORCH.replace("VERSION", number).replace("BROKEN", torch).replace("ERROR", error)
    wheel(folder, "torch", number, code)
    wheel(folder, "torchvision", "0.29.1+cpu", VISION.replace("BROKEN", vision))
    return str(folder)


@pytest.fixture(scope="module")
def choice():
    return choose_wheel(MACHINE, "2.14")


@pytest.fixture(autouse=True)
def quiet_pip(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")


def torch_in(folder):
    command = [python_of(folder), "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def left_beside(folder):
    return sorted(each.name for each in folder.parent.iterdir() if "fromzero" in each.name or "trash" in each.name)


def test_new_environment_then_failures_leave_it_as_it_was(tmp_path, choice):
    folder = tmp_path / "env"
    receipt = apply(choice, MACHINE, folder, (wheels(tmp_path / "good"),))
    assert (receipt.torch, receipt.torchvision, receipt.cuda_tag) == ("2.14.1+cpu", "0.29.1+cpu", "cpu")
    assert set(receipt.proof["devices"][0]["results"]) == {
        f"{kernel} {precision}" for kernel in ("matmul", "convolution") for precision in ("fp32", "bf16")
    }
    kept = json.loads((folder / RECEIPT).read_text())
    assert kept["packages"]["torch"] == "2.14.1+cpu"
    assert not (folder / ".fromzero-incomplete").exists()

    broken = {
        "does not import": wheels(tmp_path / "b1", torch="raise OSError('libtorch.so')", number="2.14.2+cpu"),
        "computes wrongly": wheels(tmp_path / "b2", error="0.5", number="2.14.3+cpu"),
    }
    for place in broken.values():
        with pytest.raises(SetupError) as raised:
            apply(choice, MACHINE, folder, (place,))
        assert raised.value.code == "proof_failed"
        assert torch_in(folder) == "2.14.1+cpu"
        assert json.loads((folder / RECEIPT).read_text()) == kept
    assert left_beside(folder) == []

    # a copy that a killed run left takes its place again
    module._copy(folder)
    (folder / "pyvenv.cfg").unlink()
    (tmp_path / ".env.fromzero-lock").write_text("999999999")
    unloadable = wheels(tmp_path / "b3", vision="raise RuntimeError('operator torchvision::nms does not exist')")
    receipt = apply(choice, MACHINE, folder, (unloadable,))
    # the same version is not installed again, so this torchvision is still the good one
    assert receipt.torchvision == "0.29.1+cpu"
    assert left_beside(folder) == []


def test_new_environment_that_fails_is_removed(tmp_path, choice, monkeypatch):
    folder = tmp_path / "env"
    monkeypatch.setattr(module, "_make", lambda folder: (folder / "half").touch())
    monkeypatch.setattr(module, "_install", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        apply(choice, MACHINE, folder, (wheels(tmp_path / "good"),))
    assert not folder.exists()
    assert left_beside(folder) == []


@pytest.fixture
def steps(monkeypatch):
    """An environment whose making, installing and proving are played."""
    state = {"vision": {"version": "0.29.1", "ok": True}, "devices": [{"device": "cpu", "ok": True, "results": {}}]}

    def prove(folder, choice):
        return {
            "ok": True,
            "torch": "2.14.1",
            "cuda": "13.0",
            "torchvision": state["vision"],
            "devices": state["devices"],
        }

    def run(command, unset=None):
        if "uninstall" in command:
            state["vision"] = {"version": "", "ok": False, "problem": "No module named 'torchvision'"}
        return subprocess.CompletedProcess(command, 0, "{}", "")

    monkeypatch.setattr(module, "_make", lambda folder: None)
    monkeypatch.setattr(module, "_install", lambda *_, **__: None)
    monkeypatch.setattr(module, "_prove", prove)
    monkeypatch.setattr(module, "_run", run)
    return state


def test_torchvision_that_does_not_load_is_left_out_and_said(tmp_path, choice, steps):
    steps["vision"] = {"version": "?", "ok": False, "problem": "operator torchvision::nms does not exist"}
    receipt = apply(choice, MACHINE, tmp_path / "env", (wheels(tmp_path / "good"),))
    assert receipt.torchvision == ""
    assert any("nms" in note for note in receipt.notes)
    assert any("CUDA" in note for note in receipt.notes)  # a build with CUDA on a machine without a card


def test_card_that_torch_does_not_see_is_a_failure(tmp_path, steps):
    gpu = Gpu(name="NVIDIA GeForce RTX 4090", memory_bytes=24 << 30, capability="8.9")
    machine = Machine(os="linux", python="3.12", glibc="2.35", driver="580.95", gpus=(gpu,))
    chosen = choose_wheel(machine)
    folder = tmp_path / "good"
    folder.mkdir()
    wheel(folder, "torch", f"2.14.1+{chosen.cuda_tag}", "")
    wheel(folder, "torchvision", f"0.29.1+{chosen.cuda_tag}", "")
    with pytest.raises(SetupError):
        apply(chosen, machine, tmp_path / "env", (str(folder),))
    assert not (tmp_path / "env").exists()


def test_shadowing_variable_is_told(tmp_path, steps, monkeypatch):
    gpu = Gpu(name="NVIDIA GeForce RTX 4090", memory_bytes=24 << 30, capability="8.9")
    machine = Machine(os="linux", python="3.12", glibc="2.35", driver="580.95", gpus=(gpu,))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")
    steps["devices"] = [{"device": "cuda:0", "ok": True, "results": {}}]
    _, notes = module._proven(tmp_path, choose_wheel(machine), machine)
    assert any("LD_LIBRARY_PATH" in note for note in notes)


def test_what_is_no_environment_is_not_touched(tmp_path, choice):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UsageError) as raised:
        apply(choice, MACHINE, tmp_path)
    assert raised.value.code == "not_an_environment"
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_two_at_once_are_refused(tmp_path, choice):
    lock = tmp_path / ".env.fromzero-lock"
    lock.write_text(str(os.getppid()))
    with pytest.raises(UsageError) as raised:
        apply(choice, MACHINE, tmp_path / "env")
    assert raised.value.code == "setup_runs"
    assert lock.exists()


def test_disk_too_small(tmp_path, choice, monkeypatch):
    monkeypatch.setattr(module, "find_source", lambda *_: (module.Source("pip", (), (), exact=False), ()))
    monkeypatch.setitem(module.ROOM, "cuda", 1 << 60)
    with pytest.raises(SetupError) as raised:
        apply(choice, MACHINE, tmp_path / "env")
    assert raised.value.code == "no_room"
    assert not (tmp_path / "env").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="another layout")
def test_environment_of_another_python(tmp_path, choice):
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").touch()
    fake = tmp_path / "env/bin/python"
    fake.write_text("#!/bin/sh\necho 2.7\n")
    fake.chmod(0o755)
    with pytest.raises(UsageError) as raised:
        apply(choice, MACHINE, tmp_path / "env")
    assert raised.value.code == "other_python"
