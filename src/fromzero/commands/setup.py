"""fromzero setup: what exactly to install for a card, driver, system and Python; --apply does it and proves it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.machine.detect import Gpu, Machine, this_machine
from fromzero.machine.install import Choice, choose_wheel

SYSTEMS = ("linux", "windows", "wsl")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--card", action="append", metavar="NAME", help=say("flag.setup.card"))
    parser.add_argument("--driver", default="", metavar="V", help=say("flag.setup.driver"))
    parser.add_argument("--os", choices=SYSTEMS, help=say("flag.setup.os"))
    parser.add_argument("--python", default="", metavar="V", help=say("flag.setup.python"))
    parser.add_argument("--glibc", default="", metavar="V", help=say("flag.setup.glibc"))
    parser.add_argument("--torch", default="", metavar="V", help=say("flag.setup.torch"))
    parser.add_argument("--apply", action="store_true", help=say("flag.setup.apply"))
    parser.add_argument("--venv", metavar="DIR", help=say("flag.setup.venv"))
    parser.add_argument("--index", action="append", default=[], metavar="URL", help=say("flag.setup.index"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    if options.apply:
        return _apply(options)
    for name in ("venv", "index"):
        if getattr(options, name):
            raise UsageError("only_with_apply", name=name)
    choice = choose_wheel(_asked_for(options), options.torch)
    if options.json:
        _print_json(choice)
    else:
        _print(choice)
    return 0


def _apply(options: argparse.Namespace) -> int:
    from fromzero.machine.apply import RECEIPT, apply, python_of
    from fromzero.terminal import Terminal

    for name in ("card", "driver", "os", "python", "glibc"):
        if getattr(options, name):
            raise UsageError("apply_is_here", name=name)
    machine = this_machine()
    choice = choose_wheel(machine, options.torch)
    folder = Path(options.venv) if options.venv else _own_environment() or Path(".venv")
    receipt = apply(choice, machine, folder, tuple(options.index), Terminal())
    if options.json:
        _print_json(receipt)
        return 0
    print(say("apply.done", torch=receipt.torch, torchvision=receipt.torchvision or "-", folder=folder))
    for device in receipt.proof["devices"]:
        proven = ", ".join(what for what, result in device["results"].items() if result["ok"])
        print(say("apply.proven", device=device["device"], name=device["name"], what=proven))
    for note in receipt.notes:
        print(f"- {note}")
    print(say("apply.receipt", path=folder / RECEIPT))
    print(say("apply.next", python=python_of(folder)))
    return 0


def _print_json(record: object) -> None:
    import json

    from fromzero.records import to_json

    print(json.dumps(to_json(record), ensure_ascii=False, indent=2))


def _own_environment() -> Path | None:
    """The virtual environment this very program runs in."""
    return Path(sys.prefix) if sys.prefix != sys.base_prefix else None


def _asked_for(options: argparse.Namespace) -> Machine:
    """This machine with what the user said about another one put in its place."""
    machine = this_machine()
    if options.os and options.os != machine.os:  # another system: nothing is known of its driver and libraries
        machine = dataclasses.replace(machine, os=options.os, driver="", glibc="", processor="x86_64")
    if options.card:
        machine = dataclasses.replace(machine, gpus=tuple(map(_gpu, options.card)), processor="x86_64")
    if options.driver and not machine.gpus:
        raise UsageError("driver_without_card", driver=options.driver)
    said = {name: getattr(options, name) for name in ("driver", "python", "glibc") if getattr(options, name)}
    return dataclasses.replace(machine, **said)


def _gpu(name: str) -> Gpu:
    from fromzero.facts.cards import find_card

    card = find_card(name)
    return Gpu(name=card.title, memory_bytes=card.memory_bytes, capability=card.compute_capability)


def _print(choice: Choice) -> None:
    print(say("setup.title", torch=choice.torch, torchvision=choice.torchvision, tag=choice.cuda_tag))
    print()
    for command in choice.commands:
        print(f"  {command}")
    for name, value in choice.env.items():
        print(say("setup.set", name=name, value=value) if value is not None else say("setup.unset", name=name))
    for heading, lines in (("why", choice.why), ("warnings", choice.warnings), ("unlocks", choice.unlocks)):
        if lines:
            print(f"\n{say(f'setup.{heading}')}")
            print("\n".join(f"- {line}" for line in lines))
