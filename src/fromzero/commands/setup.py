"""fromzero setup: what exactly to install for a card, driver, system and Python."""

from __future__ import annotations

import argparse
import dataclasses
import json

from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.machine.detect import Gpu, Machine, this_machine
from fromzero.machine.install import Choice, choose_wheel
from fromzero.records import to_json

SYSTEMS = ("linux", "windows", "wsl")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--card", action="append", metavar="NAME", help=say("flag.setup.card"))
    parser.add_argument("--driver", default="", metavar="V", help=say("flag.setup.driver"))
    parser.add_argument("--os", choices=SYSTEMS, help=say("flag.setup.os"))
    parser.add_argument("--python", default="", metavar="V", help=say("flag.setup.python"))
    parser.add_argument("--glibc", default="", metavar="V", help=say("flag.setup.glibc"))
    parser.add_argument("--torch", default="", metavar="V", help=say("flag.setup.torch"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    choice = choose_wheel(_asked_for(options), options.torch)
    if options.json:
        print(json.dumps(to_json(choice), ensure_ascii=False, indent=2))
    else:
        _print(choice)
    return 0


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
