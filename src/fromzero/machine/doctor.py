"""What is wrong: with this machine, or with a run that left an error log. Each finding has one cause and one fix.

    look(root, environment) -> Facts -> examine(Facts) -> findings
    explain(log, facts)                                -> findings

Looking and judging are apart: `look` only reads (files below `root`, an environment, installed packages' metadata),
`examine` is a pure function. torch is never imported: a broken one is what brings people here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fromzero.facts import wheels as table
from fromzero.facts.failures import Sighting, sightings
from fromzero.facts.wheels import version
from fromzero.language import say
from fromzero.machine.detect import Machine, this_machine
from fromzero.machine.install import install_command
from fromzero.machine.privacy import private
from fromzero.terminal import bytes_text

GIB = 1 << 30
# An installation of PyTorch with its CUDA libraries takes 5 to 8 GB, and pip unpacks it beside the download.
DISK_NEEDED = 10 * GIB
# Workers hand batches over through /dev/shm; a container gets 64 MiB unless told otherwise.
SHARED_MEMORY_NEEDED = GIB
EVIDENCE_LENGTH = 300
# NVML's figures are rounded; less than this share of the board's own power limit was somebody's doing.
POWER_SHARE = 0.97
PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "nvidia-cudnn-cu11",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)

# How each distribution installs NVIDIA's driver (its own documentation); an ID or ID_LIKE of /etc/os-release.
DRIVER_COMMANDS = {
    "ubuntu": "sudo ubuntu-drivers install",
    "debian": "sudo apt-get install nvidia-driver firmware-misc-nonfree",
    "fedora": "sudo dnf install akmod-nvidia",
    "rhel": "sudo dnf install nvidia-open",
    "centos": "sudo dnf install nvidia-open",
    "arch": "sudo pacman -S nvidia-open-dkms",
    "suse": "sudo zypper install --auto-agree-with-licenses nvidia-open-driver-G06-signed-kmp-default",
    "opensuse": "sudo zypper install --auto-agree-with-licenses nvidia-open-driver-G06-signed-kmp-default",
}


@dataclass(frozen=True)
class Finding:
    """One fault: `evidence` is what was seen, `cause` what it means, `fix` a command and, behind #, a word on it."""

    code: str
    cause: str
    evidence: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen of a machine. `packages` are installed versions; `torch_cuda` is the CUDA version the installed
    torch was built for, "" for a CPU build and None if it is not known; sizes in bytes, None if not known.
    `distribution` is a key of DRIVER_COMMANDS or ""; `nouveau` that the free driver holds the card."""

    machine: Machine
    kernel_driver: str = ""
    device_files: tuple[str, ...] = ()
    wsl_library: bool = True
    linux_libraries: tuple[str, ...] = ()
    container: bool = False
    library_path: tuple[str, ...] = ()
    cuda_home: str = ""
    cuda_home_exists: bool = True
    packages: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str | None = None
    disk_free: int | None = None
    shared_memory: int | None = None
    distribution: str = ""
    nouveau: bool = False


def look(
    root: Path = Path("/"),
    environment: Mapping[str, str] | None = None,
    machine: Machine | None = None,
    site_packages: Iterable[str] | None = None,
) -> Facts:
    """Read this machine, or one whose files lie below `root`."""
    environment = os.environ if environment is None else environment
    paths = list(sys.path if site_packages is None else site_packages)
    packages = _installed(paths)
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH") or ""
    return Facts(
        machine=machine or this_machine(root),
        kernel_driver=_kernel_driver(root),
        device_files=tuple(sorted(each.name for each in root.glob("dev/nvidia*") if not each.is_dir())),
        wsl_library=(root / "usr/lib/wsl/lib/libcuda.so.1").exists(),
        linux_libraries=_linux_libraries(root),
        container=(root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
        library_path=tuple(filter(None, environment.get("LD_LIBRARY_PATH", "").split(":"))),
        cuda_home=home,
        cuda_home_exists=not home or (root / home.lstrip("/")).exists() or Path(home).exists(),
        packages=packages,
        torch_cuda=_torch_cuda(paths) if "torch" in packages else None,
        disk_free=_size(Path(sys.prefix), total=False),
        shared_memory=_size(root / "dev/shm", total=True),
        distribution=_distribution(root),
        nouveau=any(line.startswith("nouveau ") for line in _text(root / "proc/modules").splitlines()),
    )


def examine(facts: Facts) -> list[Finding]:
    """The faults of a machine, those of the driver first. No NVIDIA card is no fault."""
    checks = (
        _driver, _lost, _devices, _wsl, _library_path, _cuda_home, _python, _torch, _pair, _numpy, _cudnn, _disk,
        _shared_memory, _power, _link,
    )  # fmt: skip
    return [finding for check in checks for finding in check(facts)]


def explain(log: str, wsl: bool = False, facts: Callable[[], Facts] | None = None) -> list[Finding]:
    """The known failures in an error log, in its order; one finding "unknown" if it has an error but none is known,
    none if it has no error. `wsl` says that the log is from a WSL machine even if it does not show it. `facts` tells
    of the machine the log is from: it is asked only where the log alone leaves two causes open."""
    found = []
    for each in sightings(log, context="WSL" if wsl else ""):
        evidence = say("doctor.line", line=each.line, text=each.text)
        known = facts() if facts and each.failure.code in _OPEN and not each.decided else None
        code, more = _by_the_machine(each, known) if known else (each.failure.code, "")
        found.append(_found(code, evidence + more, prefix="failure", **each.values))
    if found:
        return found
    errors = [line.strip() for line in log.splitlines() if _ERROR.search(line)]
    return [_found("unknown", errors[-1], prefix="failure")] if errors else []


# Failures whose message two causes share.
_OPEN = ("no_kernels_old_card", "no_kernels_new_card", "cudnn_clash")


def _by_the_machine(sighting: Sighting, facts: Facts) -> tuple[str, str]:
    """The cause that the machine shows, and its evidence; the log's own where the machine does not tell either."""
    code = sighting.failure.code
    if code == "cudnn_clash":
        if _shadowing(facts):
            return "cudnn_clash", "; LD_LIBRARY_PATH=" + ":".join(_shadowing(facts))
        if finding := next(iter(_cudnn(facts)), None):
            return "cudnn_package", f"; {finding.evidence}"
        return code, ""
    wheel = _wheel(facts)
    if wheel is None or not facts.machine.gpus:
        return code, ""
    without = [gpu for gpu in facts.machine.gpus if not _serves(wheel, gpu.capability, facts.machine.os)]
    if not without:
        return "extension_without_kernels", f"; torch {wheel.torch} {wheel.cuda_tag} has kernels for every card here"
    card = f"; torch {wheel.torch} {wheel.cuda_tag} has no kernels for {without[0].name} ({without[0].capability})"
    blackwell = version(without[0].capability) >= version(table.BLACKWELL)
    return ("no_kernels_new_card" if blackwell else "no_kernels_old_card"), card


def safe_fixes(findings: Iterable[Finding], prefix: str, base_prefix: str, python: str) -> dict[str, list[str]]:
    """Finding -> the command of those fixes that need no rights and touch nothing but a virtual environment or a
    cache. None for a Python of the system: that is not ours to change."""
    in_environment = prefix != base_prefix
    again = [python, "-m", "fromzero", "setup", "--apply", "--venv", prefix]
    commands = {
        "disk": [python, "-m", "pip", "cache", "purge"],
        **({"numpy2": [python, "-m", "pip", "install", "numpy<2"]} if in_environment else {}),
        **(dict.fromkeys(_REINSTALLED, again) if in_environment else {}),
    }
    return {each.code: commands[each.code] for each in findings if each.code in commands}


_REINSTALLED = ("cpu_wheel", "no_kernels", "old_driver", "torchvision_pair", "cudnn_package")


def as_text(facts: Facts) -> dict[str, object]:
    """What to attach to a report: versions and sizes, no names of users or folders."""
    machine = facts.machine
    return {
        "os": machine.os,
        "processor": machine.processor,
        "glibc": machine.glibc,
        "python": machine.python,
        "driver": machine.driver or facts.kernel_driver,
        "nvml": machine.nvml or "ok",
        "gpus": [f"{gpu.name}, {bytes_text(gpu.memory_bytes)}, {gpu.capability}" for gpu in machine.gpus],
        "container": facts.container,
        "packages": dict(facts.packages),
        "torch_cuda": facts.torch_cuda,
    }


# --- looking --------------------------------------------------------------------------------------------------------


def _kernel_driver(root: Path) -> str:
    """The version of the loaded kernel module, or ""."""
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", _text(root / "proc/driver/nvidia/version"))
    return found[1] if found else ""


def _distribution(root: Path) -> str:
    """The first of ID and ID_LIKE of /etc/os-release whose way to install a driver is known."""
    lines = dict(line.partition("=")[::2] for line in _text(root / "etc/os-release").splitlines())
    names = [lines.get("ID", ""), *lines.get("ID_LIKE", "").strip('"').split()]
    return next((name for each in names if (name := each.strip('"').split("-")[0]) in DRIVER_COMMANDS), "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _linux_libraries(root: Path) -> tuple[str, ...]:
    """Copies of libcuda outside WSL's own folder."""
    folders = ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib/aarch64-linux-gnu")
    found = [each for folder in folders for each in sorted((root / folder).glob("libcuda.so*"))]
    return tuple("/" + str(each.relative_to(root)) for each in found)


_METADATA = re.compile(r"(?P<name>[\w.]+)-(?P<version>\d[^-]*)(?:-py[\d.]+)?\.(?:dist|egg)-info")


def _installed(paths: list[str]) -> dict[str, str]:
    """Versions by the names of the packages' metadata folders; the first on the path is the one that Python would
    import. (importlib.metadata reads the same, and takes longer to import than all the rest.)"""
    found: dict[str, str] = {}
    for path in paths:
        try:
            names = sorted(os.listdir(path or "."))
        except OSError:  # not a folder: a zip, or gone
            continue
        for match in filter(None, map(_METADATA.fullmatch, names)):
            name = match["name"].replace("_", "-").lower()
            if name in PACKAGES:
                found.setdefault(name, match["version"])
    return found


def _torch_cuda(paths: list[str]) -> str | None:
    """The `cuda` of torch/version.py, read as text: "13.0", "" for a CPU build, None if it cannot be read."""
    for path in paths:
        file = Path(path) / "torch" / "version.py"
        if file.is_file():
            found = re.search(r"^cuda(?:\s*:[^=]*)?\s*=\s*(?:'([\d.]+)'|None)", file.read_text(errors="replace"), re.M)
            return None if found is None else found[1] or ""
    return None


def _size(path: Path, total: bool) -> int | None:
    import shutil

    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return usage.total if total else usage.free


# --- judging --------------------------------------------------------------------------------------------------------

_ERROR = re.compile(r"error|exception|traceback|failed|fatal|abort|killed|segmentation fault", re.IGNORECASE)
_CUDA_FOLDER = re.compile(r"cuda|cudnn|tensorrt|nvidia", re.IGNORECASE)
_WSL_FOLDER = "/usr/lib/wsl/lib"


def _found(code: str, evidence: str, prefix: str = "doctor", distribution: str = "", **values: object) -> Finding:
    known = {"cu118": "", "cu126": "", "cu128": ""}
    texts = {**{tag: install_command(table.newest(tag)) for tag in known}, "version": "", "tag": "", **values}
    texts["index"] = table.index_url(str(texts["tag"]) or "cu126")
    texts["install_driver"] = DRIVER_COMMANDS[distribution or "ubuntu"]
    return Finding(
        code=code,
        cause=say(f"{prefix}.{code}", **texts),
        evidence=private(evidence)[:EVIDENCE_LENGTH],
        fix=say(f"{prefix}.{code}.fix", **texts),
    )


def _driver(facts: Facts) -> Iterable[Finding]:
    machine = facts.machine
    if machine.nvml == "mismatch":
        yield _found("driver_mismatch", f"NVML: Driver/library version mismatch; kernel module {facts.kernel_driver}")
    elif machine.nvml and facts.kernel_driver and machine.os == "linux" and not _shut_out(facts):
        evidence = f"kernel module {facts.kernel_driver}; NVML: {machine.nvml}"
        yield _found("driver_library", evidence, distribution=facts.distribution)
    elif machine.gpu_seen and not machine.driver and machine.os == "linux":
        held = "; held by nouveau" if facts.nouveau else ""
        evidence = f"NVIDIA card on the PCI bus{held}; NVML: {machine.nvml}"
        yield _found("no_driver", evidence, distribution=facts.distribution)


def _lost(facts: Facts) -> Iterable[Finding]:
    if facts.machine.lost:
        yield _found("card_lost", f"{facts.machine.lost} of {facts.machine.lost + len(facts.machine.gpus)} cards")


def _devices(facts: Facts) -> Iterable[Finding]:
    missing = _missing_devices(facts)
    if missing:
        code = "container_without_gpu" if _shut_out(facts) else "device_files"
        yield _found(code, "missing: " + ", ".join(f"/dev/{name}" for name in missing))


def _missing_devices(facts: Facts) -> list[str]:
    if facts.machine.os != "linux" or not facts.kernel_driver:
        return []
    return [name for name in ("nvidiactl", "nvidia-uvm") if name not in facts.device_files]


def _shut_out(facts: Facts) -> bool:
    """A container sees its host's kernel module, but not the host's devices."""
    return facts.container and bool(_missing_devices(facts))


def _wsl(facts: Facts) -> Iterable[Finding]:
    if facts.machine.os != "wsl":
        return
    if facts.linux_libraries:
        yield _found("wsl_linux_driver", ", ".join(facts.linux_libraries))
    elif not facts.wsl_library:
        yield _found("wsl_no_library", f"{_WSL_FOLDER}/libcuda.so.1 is missing")


def _shadowing(facts: Facts) -> list[str]:
    """The folders of LD_LIBRARY_PATH that can hide the libraries of a wheel."""
    return [each for each in facts.library_path if _CUDA_FOLDER.search(each) and each.rstrip("/") != _WSL_FOLDER]


def _library_path(facts: Facts) -> Iterable[Finding]:
    shadowing = _shadowing(facts)
    if shadowing:
        yield _found("library_path", "LD_LIBRARY_PATH=" + ":".join(shadowing))


def _cuda_home(facts: Facts) -> Iterable[Finding]:
    if not facts.cuda_home_exists:
        yield _found("cuda_home", f"CUDA_HOME={facts.cuda_home}")


def _python(facts: Facts) -> Iterable[Finding]:
    verified = [each for each in table.wheels() if each.verified]
    first = min((each.python_first for each in verified), key=version)
    last = max((each.python_last for each in verified), key=version)
    if not version(first) <= version(facts.machine.python) <= version(last):
        yield _found("python", f"Python {facts.machine.python}", first=first, last=last)


def _torch(facts: Facts) -> Iterable[Finding]:
    installed, machine = facts.packages.get("torch"), facts.machine
    if installed is None:
        return
    tag = _tag(installed, facts.torch_cuda)
    if tag == "cpu" and (machine.gpus or machine.gpu_seen):
        cards = ", ".join(gpu.name for gpu in machine.gpus) or "NVIDIA card on the PCI bus"
        yield _found("cpu_wheel", f"torch {installed} (CPU); {cards}")
    wheel = _wheel(facts)
    if wheel is None:
        return
    for gpu in machine.gpus:
        if not _serves(wheel, gpu.capability, machine.os):
            yield _found("no_kernels", f"torch {installed} {tag}; {gpu.name}, compute capability {gpu.capability}")
            return
    needed = wheel.driver(machine.os)
    if machine.driver and version(machine.driver) < version(needed):
        yield _found("old_driver", f"torch {installed} {tag}; driver {machine.driver}", needed=needed)


def _wheel(facts: Facts) -> table.Wheel | None:
    """The row of the installed torch."""
    installed = facts.packages.get("torch")
    return table.find_wheel(installed, _tag(installed, facts.torch_cuda)) if installed else None


def _serves(wheel: table.Wheel, capability: str, os_name: str) -> bool:
    return wheel.runs_on(capability, os_name) or wheel.compiles_for(capability, os_name)


def _tag(installed: str, cuda: str | None) -> str:
    """ "cu130", "cpu", or "" if neither the version nor torch/version.py tells."""
    local = installed.partition("+")[2]
    if local.startswith(("cu", "cpu")):
        return "cpu" if local.startswith("cpu") else local
    return "" if cuda is None else f"cu{cuda.replace('.', '')}" if cuda else "cpu"


def _pair(facts: Facts) -> Iterable[Finding]:
    torch, vision = facts.packages.get("torch"), facts.packages.get("torchvision")
    if torch is None or vision is None:
        return
    expected = table.partner(torch)
    build, other = torch.partition("+")[2], vision.partition("+")[2]
    if (expected and table.minor(vision) != expected) or (build and other and build != other):
        values = {"torch": table.minor(torch), "expected": expected or "?"}
        yield _found("torchvision_pair", f"torch {torch}, torchvision {vision}", **values)


def _numpy(facts: Facts) -> Iterable[Finding]:
    torch, numpy = facts.packages.get("torch"), facts.packages.get("numpy")
    if torch and numpy and version(numpy) >= (2,) and version(torch) < version(table.NUMPY2_SINCE):
        yield _found("numpy2", f"torch {torch}, numpy {numpy}")


def _cudnn(facts: Facts) -> Iterable[Finding]:
    """A cuDNN package other than the one the wheel was built with: the loader takes it, and PyTorch refuses it."""
    wheel = _wheel(facts)
    package = f"nvidia-cudnn-{wheel.cuda_tag[:4]}" if wheel else ""
    installed = facts.packages.get(package)
    if wheel and wheel.cudnn and installed and version(installed)[:2] < version(wheel.cudnn)[:2]:
        yield _found(
            "cudnn_package", f"{package} {installed}, torch {wheel.torch} {wheel.cuda_tag} wants {wheel.cudnn}"
        )


def _disk(facts: Facts) -> Iterable[Finding]:
    if facts.disk_free is not None and facts.disk_free < DISK_NEEDED and "torch" not in facts.packages:
        yield _found("disk", f"{bytes_text(facts.disk_free)} free", needed=bytes_text(DISK_NEEDED))


def _shared_memory(facts: Facts) -> Iterable[Finding]:
    size = facts.shared_memory
    if facts.machine.os in ("linux", "wsl") and size is not None and size < SHARED_MEMORY_NEEDED:
        code = "shared_memory_container" if facts.container else "shared_memory"
        yield _found(code, f"/dev/shm: {bytes_text(size)}", needed=bytes_text(SHARED_MEMORY_NEEDED))


def _power(facts: Facts) -> Iterable[Finding]:
    for number, gpu in enumerate(facts.machine.gpus):
        if gpu.power_default and gpu.power_limit < POWER_SHARE * gpu.power_default:
            now, full = f"{gpu.power_limit:.0f}", f"{gpu.power_default:.0f}"
            yield _found("power_limit", f"{gpu.name}: {now} W of {full} W", number=number, full=full)


def _link(facts: Facts) -> Iterable[Finding]:
    for gpu in facts.machine.gpus:
        if 0 < gpu.link_width < gpu.link_width_max:
            yield _found("pcie_width", f"{gpu.name}: PCIe x{gpu.link_width} of x{gpu.link_width_max}")
