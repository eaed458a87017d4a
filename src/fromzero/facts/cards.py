"""The catalogue of cards: base figures from cards.csv, rates derived from them, and names matched exactly.

    cards.csv + the user's own file -> Card records -> find_card (a person's spelling), card_of_device (a live device)

A name is matched over its normalised spelling, never by substring: an RTX A4000 must not become an A40.
"""

from __future__ import annotations

import csv
import functools
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fromzero.errors import UnknownName, UsageError
from fromzero.records import Card

GIB = 1 << 30

# Dense operations per SM and clock, by rate class (NVIDIA's whitepapers; a multiply-add counts two). "gf" is GeForce,
# whose tensor cores accumulate in fp32 at half rate; "full" is Titan RTX, Quadro, RTX and data-centre cards.
OPERATIONS: Mapping[str, Mapping[str, int]] = {
    "6.0": {"fp32": 128, "fp16-simt": 256},
    "6.1": {"fp32": 256, "fp16-simt": 4, "int8": 1024},
    "7.0": {"fp32": 128, "fp16-simt": 256, "fp16": 1024, "fp16-acc16": 1024},
    "7.5notc": {"fp32": 128, "fp16-simt": 256},
    "7.5gf": {"fp32": 128, "fp16-simt": 256, "fp16": 512, "fp16-acc16": 1024, "int8": 2048},
    "7.5full": {"fp32": 128, "fp16-simt": 256, "fp16": 1024, "fp16-acc16": 1024, "int8": 2048},
    "8.0": {"fp32": 128, "fp16-simt": 512, "tf32": 1024, "fp16": 2048, "bf16": 2048, "fp16-acc16": 2048, "int8": 4096},
    "8.6gf": {"fp32": 256, "fp16-simt": 256, "tf32": 256, "fp16": 512, "bf16": 512, "fp16-acc16": 1024, "int8": 2048},
    "8.6full": {
        "fp32": 256, "fp16-simt": 256, "tf32": 512, "fp16": 1024, "bf16": 1024, "fp16-acc16": 1024, "int8": 2048
    },
    "8.9gf": {
        "fp32": 256, "fp16-simt": 256, "tf32": 256, "fp16": 512, "bf16": 512, "fp16-acc16": 1024, "int8": 2048,
        "fp8": 1024, "fp8-acc16": 2048
    },
    "8.9full": {
        "fp32": 256, "fp16-simt": 256, "tf32": 512, "fp16": 1024, "bf16": 1024, "fp16-acc16": 1024, "int8": 2048,
        "fp8": 2048, "fp8-acc16": 2048
    },
    "9.0": {
        "fp32": 256, "fp16-simt": 512, "tf32": 2048, "fp16": 4096, "bf16": 4096, "fp16-acc16": 4096, "int8": 8192,
        "fp8": 8192, "fp8-acc16": 8192
    },
    "12.0gf": {
        "fp32": 256, "fp16-simt": 256, "tf32": 256, "fp16": 512, "bf16": 512, "fp16-acc16": 1024, "int8": 2048,
        "fp8": 1024, "fp8-acc16": 2048, "fp4": 4096
    },
    "12.0full": {
        "fp32": 256, "fp16-simt": 256, "tf32": 512, "fp16": 1024, "bf16": 1024, "fp16-acc16": 1024, "int8": 2048,
        "fp8": 2048, "fp8-acc16": 2048, "fp4": 4096
    },
}  # fmt: skip
_NOT_TENSOR = ("fp32", "fp16-simt")

# What the driver keeps for itself: 0.15 GiB and 0.79 % of the memory, a least-squares line through the eleven measured
# cards without ECC (within 0.13 GiB of each). ECC on GDDR, on by default on data-centre boards, takes another 1/16.
RESERVED_GIB, RESERVED_SHARE, ECC_SHARE = 0.15, 0.0079, 1 / 16

# A live device may show a little less than the nominal memory (ECC takes 1/16), hardly ever more.
_SHOWN_MEMORY = (0.92, 1.02)


@dataclass(frozen=True)
class _Entry:
    """A card and how it is asked for: `common` answers to the bare name, others only to name and variant."""

    card: Card
    common: bool
    written: Mapping[str, str]  # every way to write it -> that way's normalised spelling
    own: bool  # from the user's file


def catalogue() -> tuple[Card, ...]:
    """All cards: the user's own first, then the built-in ones in the order of the table."""
    return tuple(entry.card for entry in _entries(str(user_file())))


def find_card(name: str) -> Card:
    """The card that a person means by `name`: "RTX 3090", "3060 12GB", "a100 40gb sxm", "3060 laptop".

    Raises UsageError "ambiguous_card" with the choices if several answer to it, UnknownName with near matches if none
    does, UsageError "bad_card_file" if the user's own file cannot be read."""
    path = str(user_file())
    found = _spellings(path).get(_key(name), ())
    if len(found) > 1:
        raise UsageError("ambiguous_card", name=name, choices=", ".join(_short(card.title) for card in found))
    if not found:
        raise _unknown(name)
    return found[0]


def card_of_device(name: str, memory_bytes: int) -> Card:
    """The card of a live device from its driver name and total memory in bytes, as NVML reports them.

    Where one name and memory size cover several cards (a re-chip, a laptop twin), the common one is taken. Raises
    UnknownName if none fits: a card with more memory than was ever sold belongs in the user's own file."""
    entries = _entries(str(user_file()))
    alike = [each for each in entries if each.card.name == name] or [
        each
        for each in entries
        if _key(each.card.name) == _key(name)  # drivers before 465 leave out "NVIDIA"
    ]
    low, high = _SHOWN_MEMORY
    fitting = [each for each in alike if low <= memory_bytes / each.card.memory_bytes <= high]
    if not fitting:
        raise _unknown(f"{name} {memory_bytes / GIB:.0f} GB")
    return max(fitting, key=lambda each: (each.own, each.common)).card  # max takes the first of equals


def user_file() -> Path:
    """Where the user's own cards are, in the columns of cards.csv: $FROMZERO_CARDS, else the configuration folder."""
    if named := os.environ.get("FROMZERO_CARDS"):
        return Path(named)
    if sys.platform == "win32":
        folder = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return folder / "fromzero" / "cards.csv"


# --- from a row to a card -------------------------------------------------------------------------------------------


@functools.cache
def _entries(own_path: str) -> tuple[_Entry, ...]:
    own = _read(Path(own_path), own=True) if Path(own_path).is_file() else []
    replaced = {(each.card.name, each.card.variant) for each in own}
    built_in = _read(Path(__file__).with_name("cards.csv"), own=False)
    entries = own + [each for each in built_in if (each.card.name, each.card.variant) not in replaced]
    owners = _owners(entries)
    return tuple(replace(each, card=replace(each.card, aliases=_aliases(each, owners))) for each in entries)


def _read(path: Path, own: bool) -> list[_Entry]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "name" not in (reader.fieldnames or ()):
                raise ValueError("the header line is missing")
            return [_entry(row, own) for row in reader]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        if not own:
            raise
        example = Path(__file__).with_name("cards.csv")
        raise UsageError("bad_card_file", path=path, reason=repr(error), example=example) from error


def _entry(row: Mapping[str, str], own: bool) -> _Entry:
    memory = float(row["memory_gib"])
    usable = float(row["usable_gib"]) if row["usable_gib"] else _usable_gib(memory, row["ecc"] == "1")
    card = Card(
        name=row["name"].strip(),
        variant=row["variant"].strip(),
        series=row["series"],
        form=row["form"],
        architecture=row["architecture"],
        compute_capability=row["capability"],
        memory_bytes=round(memory * GIB),
        usable_bytes=round(usable * GIB),
        bandwidth=float(row["bandwidth_gbs"]) * 1e9,
        rates=_rates(row),
        sms=int(row["sms"]),
        base_clock=_number(row["base_mhz"]) * 1e6,
        boost_clock=float(row["boost_mhz"]) * 1e6,
        l2_bytes=round(_number(row["l2_mib"]) * (1 << 20)),
        tdp_watts=_number(row["power_w"]),
        launch=row["launch"],
        msrp=float(row["msrp_usd"]) if row["msrp_usd"] else None,
        source=row["source"],
        notes=row["notes"],
    )
    declared = [each.strip() for each in row["aliases"].split(";") if each.strip()]
    common = row["common"] == "1"
    return _Entry(card, common, _written(card, common, declared), own)


def _rates(row: Mapping[str, str]) -> dict[str, float]:
    """Dense peaks in FLOP/s; Hopper's tensor cores run at a clock of their own."""
    boost = float(row["boost_mhz"]) * 1e6
    tensor = _number(row["tensor_mhz"]) * 1e6 or boost
    per_clock = OPERATIONS[row["rate_class"]]
    return {
        kind: count * int(row["sms"]) * (boost if kind in _NOT_TENSOR else tensor) for kind, count in per_clock.items()
    }


def _usable_gib(memory: float, ecc: bool) -> float:
    return memory * (1 - ECC_SHARE * ecc) - RESERVED_GIB - RESERVED_SHARE * memory


def _number(text: str) -> float:
    return float(text) if text else 0.0


# --- names ----------------------------------------------------------------------------------------------------------

_MEMORY = re.compile(r"(\d+)\s*g(?:i?b)?\b")
_LAPTOP = re.compile(r"\b(?:laptop(?:\s+gpu)?|mobile|notebook)\b")
_NOISE = re.compile(r"\b(?:nvidia|geforce|with|design)\b|\(r\)|\(tm\)")
_SEPARATORS = re.compile(r"[\s_\-/]+")
_REST = re.compile(r"[^a-z0-9]+")


@functools.cache
def _key(name: str) -> str:
    """The normalised spelling: "NVIDIA GeForce RTX 3060 12 GB", "rtx3060-12gb" and "RTX 3060 12G" are one."""
    text = _MEMORY.sub(r"\1gb", _SEPARATORS.sub(" ", name.casefold()))
    if "laptop" in text or "mobile" in text or "notebook" in text:
        text = _LAPTOP.sub("laptop", text)
    return _REST.sub("", _NOISE.sub("", text))


@functools.cache
def _spellings(own_path: str) -> Mapping[str, tuple[Card, ...]]:
    """Normalised spelling -> the cards that answer to it."""
    return {key: tuple(each.card for each in found) for key, found in _owners(_entries(own_path)).items()}


def _owners(entries: Iterable[_Entry]) -> dict[str, list[_Entry]]:
    """Normalised spelling -> the entries that answer to it. A card's full name and variant belong to it alone, and a
    user's card takes its spellings from the built-in ones."""
    titles: dict[str, list[_Entry]] = {}
    answers: dict[str, list[_Entry]] = {}
    for entry in entries:
        if entry.card.variant:
            titles.setdefault(_key(entry.card.title), []).append(entry)
        for key in set(entry.written.values()):
            answers.setdefault(key, []).append(entry)
    return {key: [each for each in found if each.own] or found for key, found in (answers | titles).items()}


def _written(card: Card, common: bool, declared: Iterable[str]) -> dict[str, str]:
    """Every way to write a card -> its normalised spelling: shorter and shorter, with "12 GB" also as "12GB"."""
    names = [card.title]
    if common:
        names.append(card.name)
        if not re.search(r"\dGB", card.name):
            names.append(f"{card.name} {card.memory_bytes / GIB:g} GB")
        elif card.name.startswith("NVIDIA GeForce GTX"):  # "GTX 1060 6GB" is also a "GTX 1060"
            names += [re.sub(r" \d+GB$", "", card.name), re.sub(r"(\d)GB$", r"\1 GB", card.name)]
    written: dict[str, str] = {}
    for name in (*names, *declared):
        key = _key(name)
        text = name.removeprefix("NVIDIA ")
        short = text.removeprefix("GeForce ")
        forms = {name: key, text: key, short: key}
        if short != text:  # "4000" alone could be a Quadro, an A4000, an Ada ...: only GeForce numbers stand alone
            forms[re.sub(r"^(?:RTX|GTX|GT) ", "", short)] = re.sub(r"^(?:rtx|gtx|gt)", "", key)
        for form, spelling in forms.items():
            written.setdefault(form, spelling)
            written.setdefault(form.replace(" GB", "GB"), spelling)
    return written


def _aliases(entry: _Entry, owners: Mapping[str, list[_Entry]]) -> tuple[str, ...]:
    """The spellings that select this card alone, without its exact name."""
    title = entry.card.title
    return tuple(text for text, key in entry.written.items() if text != title and owners[key] == [entry])


def _short(title: str) -> str:
    return title.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _unknown(name: str) -> UnknownName:
    """With near matches among short names, or among bare numbers if that is what was typed."""
    known = [_short(card.title) for card in catalogue()]
    if name[:1].isdigit():
        known = [title.partition("TX ")[2] for title in known if "TX " in title]
    return UnknownName("card", _short(name), known)
