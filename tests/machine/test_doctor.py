"""The doctor: known messages in noisy logs, and faked machines."""

import dataclasses
import re
from pathlib import Path

import pytest

from fromzero import language
from fromzero.facts.failures import failures
from fromzero.machine.detect import Gpu, Machine
from fromzero.machine.doctor import DRIVER_COMMANDS, GIB, Facts, Finding, examine, explain, look, safe_fixes

# Logs as users posted them (threads are in failures.json) among the usual noise: logs/<code>[.n].log.
LOGS = sorted(Path(__file__).with_name("logs").glob("*.log"))
NOISE = "UserWarning: Plan failed with a cudnnException\n  0%|          | 0/1250 [00:00<?, ?it/s]\n"

# What the fix of a log must hold.
FIXES = {
    "no_kernels_old_card": "whl/cu126",
    "no_kernels_new_card": "whl/cu128",
    "extension_without_kernels": "TORCH_CUDA_ARCH_LIST",
    "card_too_new": "whl/cu128",
    "card_too_old": "whl/cu126",
    "driver_for_cuda11": "whl/cu118",
    "driver_for_cuda12": "whl/cu126",
    "cpu_wheel": "whl/cu126",
    "cudnn8_missing": "ctranslate2>=4.5",
    "cudnn_clash": "unset LD_LIBRARY_PATH",
    "nvjitlink_clash": "unset LD_LIBRARY_PATH",
    "invalid_device": "nproc_per_node=gpu",
    "torchvision_pair": "torchvision==",
    "no_wheel_here": "fromzero setup",
    "wheel_only_on_index": '"torch==2.0.1" --index-url https://download.pytorch.org/whl/cu117',
    "no_cuda_package": "fromzero setup",
    "uvm_lost": "modprobe nvidia_uvm",
    "driver_mismatch": "reboot",
    "forward_compatibility": "cuda-compat",
    "fabric_manager": "nvidia-fabricmanager",
    "wsl_driver": "wsl.exe",
    "numpy2": "numpy<2",
    "fbgemm_dll": "torch==2",
    "bitsandbytes_setup": "bitsandbytes>=0.43",
    "cublas_no_memory": "nvidia-smi",
    "index_out_of_range": "CUDA_LAUNCH_BLOCKING=1",
    "memory_full": "--batch auto",
    "memory_fragmented": "expandable_segments",
    "memory_in_ram": "--batch auto",
}


@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("speech", ["en", "zh"])
def test_one_cause_and_one_fix_in_a_noisy_log(log, speech):
    code = log.name.split(".")[0]
    language.use(speech)
    try:
        findings = explain(log.read_text(encoding="utf-8"))
    finally:
        language.use(None)
    assert [each.code for each in findings] == [code]
    assert FIXES[code] in findings[0].fix
    assert "wang" not in findings[0].evidence
    assert findings[0].cause
    assert "{" not in findings[0].cause + findings[0].fix


def test_every_row_has_a_test_log():
    general = {"driver_too_old", "cuda_unavailable"}  # the ends of their groups, tested below
    assert {failure.code for failure in failures()} == {log.name.split(".")[0] for log in LOGS} | general


def test_general_ends_of_groups():
    old = "The NVIDIA driver on your system is too old (found version 10010)"
    assert [each.code for each in explain(old)] == ["driver_too_old"]
    unavailable = "Is CUDA available: False"
    assert [each.code for each in explain(unavailable)] == ["cuda_unavailable"]
    assert [each.code for each in explain(unavailable, wsl=True)] == ["wsl_driver"]


def test_coloured_and_wrapped_messages_match():
    log = "\x1b[31mRuntimeError: CUDA error: invalid device\n      ordinal\x1b[0m"
    assert [each.code for each in explain(log)] == ["invalid_device"]


def test_several_faults_keep_the_order_of_the_log():
    log = "RuntimeError: Numpy is not available\n" + NOISE + "AssertionError: Torch not compiled with CUDA enabled"
    assert [each.code for each in explain(log)] == ["numpy2", "cpu_wheel"]


def test_unknown_error_says_so_and_what_to_attach():
    (finding,) = explain(NOISE + "ZeroDivisionError: float division by zero")
    assert finding.code == "unknown"
    assert "ZeroDivisionError" in finding.evidence
    assert "attach" in finding.fix


def test_log_without_error_has_no_finding():
    assert explain("epoch 1 loss 0.31\nepoch 2 loss 0.22\n") == []
    assert explain("") == []


def test_secrets_stay_out_of_evidence():
    (finding,) = explain("ValueError in C:\\Users\\li\\x.py with token hf_abcdefghijklmnop of /home/li/x")
    assert "li" not in re.findall(r"\w+", finding.evidence)
    assert "hf_abc" not in finding.evidence


# --- machines -------------------------------------------------------------------------------------------------------

GPU = Gpu(name="NVIDIA GeForce RTX 3060", memory_bytes=12 * GIB, capability="8.6")
PASCAL = Gpu(name="NVIDIA GeForce GTX 1080", memory_bytes=8 * GIB, capability="6.1")
HEALTHY = Machine(os="linux", python="3.12", glibc="2.35", driver="580.95", gpus=(GPU,), gpu_seen=True)
BARE = Machine(os="linux", python="3.12", glibc="2.35", nvml="missing")
FACTS = Facts(
    machine=HEALTHY,
    kernel_driver="580.95",
    device_files=("nvidia-uvm", "nvidia0", "nvidiactl"),
    packages={"torch": "2.14.1+cu130", "torchvision": "0.29.1+cu130", "numpy": "2.1.0"},
    torch_cuda="13.0",
    disk_free=100 * GIB,
    shared_memory=8 * GIB,
)


def codes(facts):
    return [each.code for each in examine(facts)]


def test_nothing_is_wrong_with_a_healthy_machine_or_one_without_a_card():
    assert codes(FACTS) == []
    assert codes(Facts(machine=BARE)) == []
    cpu = {"torch": "2.14.1+cpu", "torchvision": "0.29.1+cpu"}
    assert codes(Facts(machine=BARE, packages=cpu, torch_cuda="")) == []


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"packages": {"torch": "2.14.1+cpu"}, "torch_cuda": ""}, "cpu_wheel"),
        ({"packages": {"torch": "2.14.1"}, "torch_cuda": ""}, "cpu_wheel"),
        ({"packages": {"torch": "2.14.1", "torchvision": "0.9.0"}}, "torchvision_pair"),
        ({"packages": {"torch": "2.14.1+cu130", "torchvision": "0.29.1+cpu"}}, "torchvision_pair"),
        ({"packages": {"torch": "2.2.0+cu121", "numpy": "2.1.0"}}, "numpy2"),
        ({"device_files": ("nvidia0", "nvidiactl")}, "device_files"),
        ({"device_files": (), "container": True}, "container_without_gpu"),
        ({"library_path": ("/usr/local/cuda-12.1/lib64", "/opt/mine")}, "library_path"),
        (
            {"device_files": (), "container": True, "machine": dataclasses.replace(BARE, nvml="missing")},
            "container_without_gpu",
        ),
        ({"cuda_home": "/usr/local/cuda-9", "cuda_home_exists": False}, "cuda_home"),
        ({"disk_free": GIB, "packages": {}}, "disk"),
        ({"shared_memory": 64 << 20}, "shared_memory"),
        ({"shared_memory": 64 << 20, "container": True}, "shared_memory_container"),
        ({"machine": dataclasses.replace(HEALTHY, gpus=(PASCAL,))}, "no_kernels"),
        ({"machine": dataclasses.replace(HEALTHY, driver="535.183.01")}, "old_driver"),
        ({"machine": dataclasses.replace(HEALTHY, python="3.6")}, "python"),
        ({"machine": dataclasses.replace(BARE, nvml="mismatch")}, "driver_mismatch"),
        ({"machine": dataclasses.replace(BARE, nvml="missing")}, "driver_library"),
        ({"machine": dataclasses.replace(BARE, gpu_seen=True), "kernel_driver": "", "packages": {}}, "no_driver"),
        ({"machine": dataclasses.replace(HEALTHY, lost=1)}, "card_lost"),
        (
            {
                "machine": dataclasses.replace(
                    HEALTHY, gpus=(dataclasses.replace(GPU, power_limit=120, power_default=170),)
                )
            },
            "power_limit",
        ),
        (
            {
                "machine": dataclasses.replace(
                    HEALTHY, gpus=(dataclasses.replace(GPU, link_width=4, link_width_max=16),)
                )
            },
            "pcie_width",
        ),
        ({"packages": {"torch": "2.14.1+cu130", "nvidia-cudnn-cu13": "9.9.0.52"}}, "cudnn_package"),
    ],
)
def test_one_fault_one_finding(changed, code):
    facts = dataclasses.replace(FACTS, **changed)
    assert codes(facts) == [code]
    (finding,) = examine(facts)
    assert finding.evidence
    assert finding.fix


def test_wsl_faults():
    wsl = dataclasses.replace(FACTS, machine=dataclasses.replace(HEALTHY, os="wsl"), kernel_driver="")
    assert codes(wsl) == []
    assert codes(dataclasses.replace(wsl, wsl_library=False)) == ["wsl_no_library"]
    inside = dataclasses.replace(wsl, linux_libraries=("/usr/lib/x86_64-linux-gnu/libcuda.so.1",))
    assert codes(inside) == ["wsl_linux_driver"]
    assert codes(dataclasses.replace(wsl, library_path=("/usr/lib/wsl/lib",))) == []


@pytest.fixture
def fake_root(tmp_path):
    """A machine with driver 535, no nvidia-uvm, torch 2.2 for the CPU and NumPy 2."""

    def write(path, text=""):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 2024")
    write("dev/nvidiactl")
    write("dev/nvidia0")
    write("dev/shm/x")
    write(".dockerenv")
    write("usr/lib/x86_64-linux-gnu/libcuda.so.1")
    write("site/torch/version.py", "__version__ = '2.2.0'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n")
    for name, number in {"torch": "2.2.0", "torchvision": "0.18.0", "numpy": "2.0.1"}.items():
        write(f"site/{name}-{number}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    return tmp_path


def test_look_reads_a_fake_machine(fake_root):
    environment = {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64:", "CUDA_HOME": "/usr/local/cuda-99.9"}
    facts = look(fake_root, environment, HEALTHY, [str(fake_root / "site")])
    assert facts.kernel_driver == "535.183.01"
    assert facts.device_files == ("nvidia0", "nvidiactl")
    assert facts.container
    assert facts.packages == {"torch": "2.2.0", "torchvision": "0.18.0", "numpy": "2.0.1"}
    assert facts.torch_cuda == ""
    assert facts.linux_libraries == ("/usr/lib/x86_64-linux-gnu/libcuda.so.1",)
    assert {"container_without_gpu", "library_path", "cuda_home", "cpu_wheel", "torchvision_pair", "numpy2"} <= set(
        codes(facts)
    )


def test_torch_cuda_version_is_read_without_import(fake_root):
    (fake_root / "site/torch/version.py").write_text("cuda = '13.0'\n")
    assert look(fake_root, {}, BARE, [str(fake_root / "site")]).torch_cuda == "13.0"


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ("ID=ubuntu\nID_LIKE=debian", "ubuntu-drivers"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"', "ubuntu-drivers"),
        ("ID=debian", "apt-get install nvidia-driver"),
        ("ID=fedora", "akmod-nvidia"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', "dnf install nvidia-open"),
        ("ID=manjaro\nID_LIKE=arch", "pacman"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"', "zypper"),
        ("ID=nixos", "ubuntu-drivers"),
    ],
)
def test_driver_advice_of_each_distribution(fake_root, release, command):
    (fake_root / "etc").mkdir()
    (fake_root / "etc/os-release").write_text(release)
    facts = look(fake_root, {}, dataclasses.replace(BARE, gpu_seen=True), [])
    facts = dataclasses.replace(facts, kernel_driver="", device_files=(), packages={})
    (finding,) = (each for each in examine(facts) if each.code == "no_driver")
    assert command in finding.fix
    assert facts.distribution in ("", *DRIVER_COMMANDS)


def test_nouveau_is_seen(fake_root):
    (fake_root / "proc/modules").write_text("nouveau 2490368 1 - Live 0x0\n")
    facts = look(fake_root, {}, dataclasses.replace(BARE, gpu_seen=True), [])
    (finding,) = examine(dataclasses.replace(facts, kernel_driver="", packages={}, shared_memory=None))
    assert "nouveau" in finding.evidence


# --- a log and the machine it is from -------------------------------------------------------------------------------

NO_KERNEL = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
CUDNN = (
    "RuntimeError: cuDNN version incompatibility: PyTorch was compiled against (9, 24, 0) "
    "but found runtime version (9, 1, 0)"
)


def told(log, **changes):
    (finding,) = explain(log, facts=lambda: dataclasses.replace(FACTS, **changes))
    return finding


def test_no_kernel_from_torch_or_from_an_extension():
    """One message: the machine tells whether its torch or an extension lacks the kernels."""
    extension = told(NO_KERNEL)
    assert extension.code == "extension_without_kernels"
    assert "has kernels for every card" in extension.evidence
    assert told(NO_KERNEL, machine=dataclasses.replace(HEALTHY, gpus=(PASCAL,))).code == "no_kernels_old_card"
    blackwell = Gpu(name="NVIDIA GeForce RTX 5090", memory_bytes=32 * GIB, capability="12.0")
    old = {"torch": "2.6.0+cu124"}
    found = told(NO_KERNEL, machine=dataclasses.replace(HEALTHY, gpus=(blackwell,)), packages=old, torch_cuda="12.4")
    assert found.code == "no_kernels_new_card"
    assert told(NO_KERNEL, machine=BARE).code == "no_kernels_old_card"  # a machine without a card tells nothing


def test_log_that_decides_itself_asks_no_machine():
    log = "NVIDIA GeForce GTX 1080 Ti\n" + NO_KERNEL

    def never():
        raise AssertionError("asked")

    assert [each.code for each in explain(log, facts=never)] == ["no_kernels_old_card"]


def test_cudnn_clash_by_path_or_by_package():
    path = told(CUDNN, library_path=("/usr/local/cuda-12.1/lib64",))
    assert path.code == "cudnn_clash"
    assert "cuda-12.1" in path.evidence
    package = told(CUDNN, packages={"torch": "2.14.1+cu130", "nvidia-cudnn-cu13": "9.1.0.70"})
    assert package.code == "cudnn_package"
    assert "9.1.0.70" in package.evidence
    assert told(CUDNN).code == "cudnn_clash"


# --- safe fixes -----------------------------------------------------------------------------------------------------


def test_only_safe_fixes_are_offered():
    codes = ("numpy2", "cpu_wheel", "no_driver", "library_path", "disk", "torchvision_pair", "power_limit")
    found = [Finding(code, "", "", "") for code in codes]
    offered = safe_fixes(found, "/env", "/usr", "/env/bin/python")
    assert set(offered) == {"numpy2", "cpu_wheel", "disk", "torchvision_pair"}
    assert offered["cpu_wheel"] == offered["torchvision_pair"]
    assert offered["cpu_wheel"][-3:] == ["--apply", "--venv", "/env"]
    assert not any("sudo" in command for command in offered.values())
    assert set(safe_fixes(found, "/usr", "/usr", "/usr/bin/python")) == {"disk"}  # a system's Python is not ours
