"""Which PyTorch to install: the newest wheel that runs on a machine, why, and what would unlock a newer one.

    Machine -> obstacles of every wheel of the table -> the newest without any -> Choice

A pure function of the machine and the table; nothing is installed or asked of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from fromzero.errors import UsageError
from fromzero.facts import wheels as table
from fromzero.facts.wheels import Wheel, version
from fromzero.language import say
from fromzero.machine.detect import Machine

OLDEST_FOR_FROMZERO = "2.6"  # pyproject.toml: fromzero[train] needs this release
LAST_FOR_MAC_INTEL = "2.2"
TORCHAUDIO_ENDS = "2.11"


class NoWheel(UsageError):
    """No wheel runs on the machine: the question was right, the answer is no."""

    status = 1


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to install. `index_url` is "" where the default index is right; `commands` are alternatives (pip, uv); in
    `env` a value is to be set and None to be unset; `unlocks` says what would allow a newer release."""

    torch: str
    torchvision: str
    cuda_tag: str
    index_url: str
    commands: tuple[str, ...]
    env: dict[str, str | None] = field(default_factory=dict)
    why: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unlocks: tuple[str, ...] = ()


def choose_wheel(machine: Machine, torch: str = "") -> Choice:
    """The newest release with kernels for every card of `machine` that its driver, system, Python and glibc can run;
    the CPU's wheel if it has no card. `torch` asks for one release ("2.9", "2.9.1"). An empty driver or glibc is taken
    to be new enough, with a warning. Raises NoWheel with the reason and the nearest possible choice."""
    pin = torch.strip()
    if pin and not any(each.torch == table.minor(_checked(pin, "torch")) for each in table.wheels()):
        raise UsageError("no_such_torch", torch=pin, newest=_newest_verified())
    _check_versions(machine)
    _check_machine(machine)
    found = _best(machine, pin)
    if found is None:
        raise NoWheel("no_wheel", reason=_reason(machine, pin), nearest=_nearest(machine, pin))
    return _choice(machine, found, pin)


def install_command(wheel: Wheel) -> str:
    """The pip command that puts one row of the table in the place of what is installed."""
    return _commands(wheel, wheel.cuda_tag, "", "linux")[0].replace("install", "install --force-reinstall", 1)


# --- the rules ------------------------------------------------------------------------------------------------------


def obstacles(wheel: Wheel, machine: Machine) -> Iterator[tuple[str, dict[str, str]]]:
    """What keeps `wheel` from running on `machine`: rules with what their sentences need, none if it runs."""
    named = {"torch": wheel.torch, "tag": wheel.cuda_tag}
    if not wheel.verified:
        yield "verified", named
    for gpu in machine.gpus:
        if not (wheel.runs_on(gpu.capability, machine.os) or wheel.compiles_for(gpu.capability, machine.os)):
            kernels = ", ".join(wheel.kernels(machine.os))
            yield "kernels", {**named, "card": gpu.name, "capability": gpu.capability, "kernels": kernels}
    needed = _driver_needed(wheel, machine)
    if machine.gpus and machine.driver and version(machine.driver) < version(needed):
        yield "driver", {**named, "needed": needed, "driver": machine.driver}
    if wheel.verified and not version(wheel.python_first) <= version(machine.python) <= version(wheel.python_last):
        yield "python", {**named, "first": wheel.python_first, "last": wheel.python_last, "python": machine.python}
    if machine.glibc and _uses_glibc(machine):
        needed = _glibc_needed(wheel, machine)
        if version(machine.glibc) < version(needed):
            yield "glibc", {**named, "needed": needed, "glibc": machine.glibc}
    if machine.os == "macos" and machine.processor == "x86_64" and version(wheel.torch) > version(LAST_FOR_MAC_INTEL):
        yield "mac", {**named, "last": LAST_FOR_MAC_INTEL}


def _fits(wheel: Wheel, machine: Machine) -> bool:
    return next(obstacles(wheel, machine), None) is None


def _check_versions(machine: Machine) -> None:
    for what, text in (("driver", machine.driver), ("python", machine.python), ("glibc", machine.glibc)):
        if text and text != "musl":
            _checked(text, what)
    if machine.driver and version(machine.driver)[0] < 100:  # "12.2" is what nvidia-smi calls the CUDA version
        raise UsageError("driver_is_cuda", driver=machine.driver)


def _checked(text: str, what: str) -> str:
    try:
        version(text)
    except ValueError:
        raise UsageError("bad_version", what=what, text=text) from None
    return text


def _check_machine(machine: Machine) -> None:
    """What no wheel of the table can mend."""
    if machine.glibc == "musl":
        raise NoWheel("no_wheel", reason=say("setup.no.musl"), nearest=say("setup.near.musl"))
    if machine.gpus and machine.os == "macos":
        raise NoWheel("no_wheel", reason=say("setup.no.cuda_on_mac"), nearest=say("setup.near.other_system"))
    if machine.gpus and machine.processor != "x86_64":
        reason = say("setup.no.processor", processor=machine.processor)
        raise NoWheel("no_wheel", reason=reason, nearest=say("setup.near.processor"))
    for gpu in machine.gpus:
        branch = table.last_branch(gpu.capability)
        if branch and machine.driver and version(machine.driver)[0] > branch:
            values = {"card": gpu.name, "branch": branch, "driver": machine.driver}
            raise NoWheel(
                "no_wheel", reason=say("setup.no.branch", **values), nearest=say("setup.near.branch", **values)
            )


def _driver_needed(wheel: Wheel, machine: Machine) -> str:
    """The floor of the wheel's CUDA, or the first driver that knows the newest card."""
    floors = [wheel.driver(machine.os), *(table.first_driver(gpu.capability, machine.os) for gpu in machine.gpus)]
    return max(filter(None, floors), key=version)


def _uses_glibc(machine: Machine) -> bool:
    return machine.os in ("linux", "wsl")


def _glibc_needed(wheel: Wheel, machine: Machine) -> str:
    """A CPU wheel is as old in this as the oldest variant of its release."""
    if machine.gpus:
        return wheel.glibc
    return min((each.glibc for each in table.wheels() if each.torch == wheel.torch), key=version)


# --- choosing -------------------------------------------------------------------------------------------------------


def _candidates(pin: str) -> Iterable[Wheel]:
    return (each for each in table.wheels() if (each.torch == table.minor(pin) if pin else each.verified))


def _best(machine: Machine, pin: str = "") -> Wheel | None:
    """The newest release, then the newest CUDA, without an obstacle."""
    possible = [each for each in _candidates(pin) if _fits(each, machine)]
    return max(possible, key=lambda each: (version(each.torch), version(each.cuda)), default=None)


def _newest_verified() -> str:
    return max((each.torch for each in table.wheels() if each.verified), key=version)


def _reason(machine: Machine, pin: str) -> str:
    """The sentences of the wheel that comes nearest: the fewest obstacles, the smallest driver update, the newest."""

    def distance(wheel: Wheel) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        rules = [rule for rule, _ in obstacles(wheel, machine)]
        driver = version(_driver_needed(wheel, machine)) if "driver" in rules else ()
        return len(rules), driver, tuple(-part for part in version(wheel.torch))

    nearest = min(_candidates(pin), key=distance)
    return " ".join(say(f"setup.no.{rule}", **values) for rule, values in obstacles(nearest, machine))


def _relaxed(machine: Machine) -> list[tuple[str, Machine]]:
    """The same machine with one thing made as new as it can be: the driver, Python or glibc."""
    driver = _newest_driver(machine)
    pythons = {each.python_last for each in table.wheels() if each.verified}
    changes = [("driver", replace(machine, driver=driver))] if machine.gpus and machine.driver else []
    changes += [("python", replace(machine, python=each)) for each in sorted(pythons, key=version, reverse=True)]
    if machine.glibc and _uses_glibc(machine):
        changes.append(("glibc", replace(machine, glibc="99")))
    return changes


def _newest_driver(machine: Machine) -> str:
    branches = [branch for gpu in machine.gpus if (branch := table.last_branch(gpu.capability))]
    return str(min(branches, default=999)) + ".999"


def _nearest(machine: Machine, pin: str) -> str:
    """What to change, one thing at a time, and what that would give."""
    ways = []
    if pin and (free := _best(machine)):
        ways.append(say("setup.near.torch", torch=free.torch, tag=_tag(free, machine)))
    said = set()
    for what, changed in _relaxed(machine):
        wheel = _best(changed, pin)
        if wheel and what not in said:
            said.add(what)
            ways.append(_change(what, wheel, machine, changed))
            least = _least_driver(changed, pin)
            if what == "driver" and version(least.torch) < version(wheel.torch):
                ways.insert(0, _change(what, least, machine, changed))
    if not ways:  # more than one thing is in the way
        best = replace(machine, driver=_newest_driver(machine) if machine.driver else "", glibc="", python="")
        for python in ("3.12", "3.10"):
            wheel = _best(replace(best, python=python), pin) or _best(replace(best, python=python))
            if wheel:
                ways.append(say("setup.near.several", torch=wheel.torch, tag=_tag(wheel, machine), python=python))
                break
    return " ".join([*ways, *_each_alone(machine, pin)]) or say("setup.near.nothing")


def _each_alone(machine: Machine, pin: str) -> Sequence[str]:
    """Where the cards differ and no wheel serves all: that, and what serves each."""
    kinds = {gpu.capability: gpu for gpu in machine.gpus}
    if len(kinds) < 2 or _best(replace(machine, driver="", glibc="", python="3.12"), pin):
        return []
    alone = []
    for gpu in kinds.values():
        if wheel := _best(replace(machine, gpus=(gpu,)), pin):
            alone.append(say("setup.near.alone", card=gpu.name, torch=wheel.torch, tag=wheel.cuda_tag))
    return [say("setup.near.nothing"), *([say("setup.near.apart", each="; ".join(alone))] if alone else [])]


def _least_driver(machine: Machine, pin: str) -> Wheel:
    """Of the wheels that run on `machine`, the newest of those that need the oldest driver."""
    possible = [each for each in _candidates(pin) if _fits(each, machine)]
    oldest = min(version(_driver_needed(each, machine)) for each in possible)
    return max(
        (each for each in possible if version(_driver_needed(each, machine)) == oldest),
        key=lambda each: (version(each.torch), version(each.cuda)),
    )


def _change(what: str, wheel: Wheel, machine: Machine, changed: Machine) -> str:
    needed = {
        "driver": _driver_needed(wheel, machine),
        "python": changed.python,
        "glibc": _glibc_needed(wheel, machine),
    }[what]
    return say(f"setup.near.{what}", needed=needed, torch=wheel.torch, tag=_tag(wheel, machine))


def _unlocks(machine: Machine, chosen: Wheel, pin: str) -> tuple[str, ...]:
    """What, changed alone, would allow a newer release."""
    if pin:
        return ()
    said: dict[str, str] = {}
    for what, changed in _relaxed(machine):
        wheel = _best(changed)
        if wheel and what not in said and version(wheel.torch) > version(chosen.torch):
            said[what] = _change(what, wheel, machine, changed)
    return tuple(said.values())


# --- saying it ------------------------------------------------------------------------------------------------------


def _tag(wheel: Wheel, machine: Machine) -> str:
    return wheel.cuda_tag if machine.gpus else "cpu"


def _choice(machine: Machine, wheel: Wheel, pin: str) -> Choice:
    tag = _tag(wheel, machine)
    gpu_linux = bool(machine.gpus) and machine.os in ("linux", "wsl")
    return Choice(
        torch=pin or wheel.torch,
        torchvision=wheel.torchvision,
        cuda_tag=tag,
        index_url="" if machine.os == "macos" else table.index_url(tag),
        commands=_commands(wheel, tag, pin, machine.os),
        env={"LD_LIBRARY_PATH": None} if gpu_linux else {},
        why=_why(machine, wheel, pin),
        warnings=_warnings(machine, wheel),
        unlocks=_unlocks(machine, wheel, pin),
    )


def _commands(wheel: Wheel, tag: str, pin: str, os_name: str) -> tuple[str, ...]:
    exact = pin if pin.count(".") > 1 else f"{wheel.torch}.*"
    packages = [f'"torch=={exact}"', f'"torchvision=={wheel.torchvision}.*"']
    if version(wheel.torch) < version(table.NUMPY2_SINCE):
        packages.append('"numpy<2"')
    index = [] if os_name == "macos" else ["--index-url", table.index_url(tag)]
    return tuple(" ".join([tool, *packages, *index]) for tool in ("python -m pip install", "uv pip install"))


def _why(machine: Machine, wheel: Wheel, pin: str) -> tuple[str, ...]:
    if not machine.gpus:
        lines = [say("setup.why.cpu", torch=wheel.torch)]
    else:
        cards = ", ".join(dict.fromkeys(f"{gpu.name} ({gpu.capability})" for gpu in machine.gpus))
        kernels = ", ".join(wheel.kernels(machine.os))
        key = "setup.why.asked" if pin else "setup.why.kernels"
        lines = [say(key, torch=wheel.torch, tag=wheel.cuda_tag, cards=cards, kernels=kernels)]
        if machine.driver:
            values = {"driver": machine.driver, "needed": _driver_needed(wheel, machine)}
            lines.append(say("setup.why.driver", **values, cuda=wheel.cuda))
    lines.append(say("setup.why.pair", torch=wheel.torch, torchvision=wheel.torchvision))
    lines += _why_this_index(machine, wheel)
    if machine.gpus:
        lines.append(say("setup.why.runtime"))
    return tuple(lines)


def _why_this_index(machine: Machine, wheel: Wheel) -> Sequence[str]:
    """What a plain `pip install torch` would have done instead."""
    if machine.os == "windows":
        return [say("setup.why.windows")] if machine.gpus else []
    if machine.os == "macos":
        return []
    if not machine.gpus:
        return [say("setup.why.cpu_index")]
    plain = max((each for each in table.wheels() if each.pypi_linux), key=lambda each: version(each.torch))
    for rule, values in obstacles(plain, machine):
        return [say("setup.why.plain", tag=plain.cuda_tag, problem=say(f"setup.no.{rule}", **values))]
    return []


def _warnings(machine: Machine, wheel: Wheel) -> tuple[str, ...]:
    lines = []
    if machine.gpus:
        lines += _card_warnings(machine, wheel)
        if machine.os == "wsl":
            lines.append(say("setup.warn.wsl"))
        if machine.os in ("linux", "wsl"):
            lines.append(say("setup.warn.library_path"))
    elif machine.gpu_seen:
        lines.append(say("setup.warn.no_driver"))
    if _uses_glibc(machine) and not machine.glibc:
        lines.append(say("setup.warn.glibc", needed=_glibc_needed(wheel, machine)))
    if version(wheel.torch) < version(OLDEST_FOR_FROMZERO):
        lines.append(say("setup.warn.old", torch=wheel.torch, oldest=OLDEST_FOR_FROMZERO))
    if version(wheel.torch) < version(table.NUMPY2_SINCE):
        lines.append(say("setup.warn.numpy", torch=wheel.torch))
    if version(wheel.torch) > version(TORCHAUDIO_ENDS):
        lines.append(say("setup.warn.audio", torch=wheel.torch, last=TORCHAUDIO_ENDS))
    return tuple(lines)


def _card_warnings(machine: Machine, wheel: Wheel) -> list[str]:
    lines = []
    if not machine.driver:
        lines.append(say("setup.warn.driver", needed=_driver_needed(wheel, machine)))
    for gpu in {gpu.name: gpu for gpu in machine.gpus}.values():
        branch = table.last_branch(gpu.capability)
        if branch:
            lines.append(
                say("setup.warn.last", card=gpu.name, branch=branch, last=_last_release(gpu.capability, machine))
            )
        if not wheel.runs_on(gpu.capability, machine.os):
            lines.append(say("setup.warn.ptx", card=gpu.name, cuda=wheel.cuda))
    return lines


def _last_release(capability: str, machine: Machine) -> str:
    fitting = [each for each in table.wheels() if each.verified and each.runs_on(capability, machine.os)]
    last = max(fitting, key=lambda each: (version(each.torch), version(each.cuda)))
    return f"{last.torch} {last.cuda_tag}"
