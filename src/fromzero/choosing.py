"""choose(): which card for this job? Every card of the catalogue is planned for, sieved by what the user can afford,
and ranked; the first row is the answer, and each row says why it stands where it does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fromzero.errors import UnknownName, UsageError
from fromzero.facts.cards import catalogue, find_card
from fromzero.fitting import LORA_RANK
from fromzero.language import say
from fromzero.planning import plan
from fromzero.records import Candidate, Card, Choice, Money, Plan
from fromzero.terminal import bytes_text, seconds_text

SEVERAL = (2, 4, 8)  # cards of one kind in one machine
NEW_ENOUGH = ("20", "30", "40", "50")  # what "several cards" is tried with


def choose(
    model: str,
    *,
    hours: float | None = None,
    budget: float | None = None,
    watts: float | None = None,
    min_memory: int = 0,
    own: Sequence[str] = (),
    series: Sequence[str] = (),
    form: str = "desktop",
    prices: Mapping[str, float] | None = None,
    rents: Mapping[str, float] | None = None,
    tariff: float | None = None,
    currency: str = "",
    priced_on: str = "",
    cards: Iterable[Card] | None = None,
    **words: Any,
) -> Choice:
    """The cards for training or running `model`, best first. The words after `cards` are those of `plan`.

    `hours` is how long the whole run may take (it needs `samples`), `budget` what it may cost in `currency`, `watts`
    the most a card may draw, `min_memory` bytes it must have. `own` are cards at hand, which cost nothing but
    electricity. `prices` are purchase prices and `rents` prices an hour, by card, on the day `priced_on`; `tariff` is
    the price of a kWh. No price is ever made up: without any, cards are ranked by time."""
    if hours is not None and not words.get("samples"):
        raise UsageError("hours_need_samples")
    money = Money(tariff=tariff, currency=currency, priced_on=priced_on)
    owned = {find_card(each).title for each in own}
    bought = {find_card(name).title: price for name, price in (prices or {}).items()}
    rented = {find_card(name).title: price for name, price in (rents or {}).items()}
    pool = _pool(cards, series, form, owned | set(bought) | set(rented))
    limits = _Limits(hours, budget, watts, min_memory)
    terms = _Terms(limits, frozenset(owned), bought, rented, money)
    rows = [_judged(plan(model, card=card, **{"precision": best_precision(card), **words}), terms) for card in pool]
    if not any(each.meets for each in rows):
        rows += _rescues(model, pool, words, terms)
    rows.sort(key=_order)
    return Choice(
        model=model,
        candidates=tuple(rows),
        answer=_answer(rows),
        money=money,
        limits={name: value for name, value in dataclasses.asdict(limits).items() if value},
    )


@dataclasses.dataclass(frozen=True)
class _Limits:
    hours: float | None
    budget: float | None
    watts: float | None
    min_memory: int


@dataclasses.dataclass(frozen=True)
class _Terms:
    """What the user said: limits, and what each card costs him."""

    limits: _Limits
    owned: frozenset[str]
    bought: Mapping[str, float]
    rented: Mapping[str, float]
    money: Money


def _pool(cards: Iterable[Card] | None, series: Sequence[str], form: str, named: set[str]) -> list[Card]:
    """The cards in question: those of the wanted series and form, and whatever the user named."""
    every = list(cards) if cards is not None else list(catalogue())
    known = {each.series for each in every}
    for each in series:
        if each not in known:
            raise UnknownName("series", each, known)
    found = [
        each
        for each in every
        if each.title in named or ((not series or each.series in series) and form in ("any", each.form))
    ]
    if not found:
        raise UsageError("no_cards_left")
    return found


# --- one card -------------------------------------------------------------------------------------------------------


def best_precision(card: Card) -> str:
    """The precision people train in on this card: bf16 where it is native, fp16 on tensor cores, else fp32."""
    return f"amp-{card.half}" if card.half else "fp32"


def _judged(made: Plan, terms: _Terms, keeps: str = "same", rescued: bool = False) -> Candidate:
    card, count = made.card, made.recipe.cards
    hours = made.time.total / 3600
    kwh = made.energy.kwh
    parts = {}
    if card.title in terms.owned:
        parts["own"] = 0.0
    elif card.title in terms.rented:
        parts["rent"] = terms.rented[card.title] * hours * count
    elif card.title in terms.bought:
        parts["purchase"] = terms.bought[card.title] * count
    if terms.money.tariff is not None and "rent" not in parts:
        parts["electricity"] = kwh * terms.money.tariff
    cost = sum(parts.values()) if parts.keys() & {"own", "rent", "purchase"} else None
    reasons = list(_against(made, hours, cost, terms.limits, terms.money))
    return Candidate(
        plan=made,
        owned=card.title in terms.owned,
        meets=not reasons,
        hours=hours,
        kwh=kwh,
        cost=cost,
        costs=parts,
        keeps=keeps,
        rescued=rescued,
        reason=(_how(made) if rescued else "") + (" ".join(reasons) or _for(made, hours, cost, terms.money)),
    )


def _against(made: Plan, hours: float, cost: float | None, limits: _Limits, money: Money) -> Iterable[str]:
    card = made.card
    if made.verdict != "fits":
        need, have = bytes_text(made.memory.process_peak), bytes_text(card.usable_bytes)
        yield say(f"choose.{made.verdict}", need=need, have=have, batch=made.recipe.batch)
    if card.memory_bytes < limits.min_memory:
        yield say("choose.little_memory", have=bytes_text(card.memory_bytes), wanted=bytes_text(limits.min_memory))
    if limits.hours is not None and hours > limits.hours:
        yield say("choose.too_slow", time=seconds_text(hours * 3600), limit=f"{limits.hours:g}")
    if limits.watts is not None and card.tdp_watts * made.recipe.cards > limits.watts:
        yield say("choose.too_hungry", watts=f"{card.tdp_watts * made.recipe.cards:.0f}", limit=f"{limits.watts:g}")
    if limits.budget is not None and cost is None:
        yield say("choose.no_price")
    elif limits.budget is not None and cost is not None and cost > limits.budget:
        yield say("choose.too_dear", cost=f"{cost:.2f} {money.currency}", limit=f"{limits.budget:g}")


def _for(made: Plan, hours: float, cost: float | None, money: Money) -> str:
    time = (
        say("choose.run", time=seconds_text(hours * 3600))
        if hours
        else say("choose.step", step=seconds_text(made.time.step))
    )
    price = say("choose.costs", cost=f"{cost:.2f} {money.currency}".strip()) if cost is not None else ""
    return say("choose.fits", peak=bytes_text(made.memory.process_peak), time=time, price=price)


# --- when no single card will do ----------------------------------------------------------------------------------


def _rescues(model: str, pool: Sequence[Card], words: Mapping[str, Any], terms: _Terms) -> list[Candidate]:
    """Several cards of one kind, or adapters on one, for the largest memories at hand."""
    largest = sorted((each for each in pool if each.memory_bytes), key=lambda each: -each.usable_bytes)[:6]
    trains = words.get("purpose", "train") == "train"
    found = []
    for card in largest if trains else ():
        more = {"precision": best_precision(card), **words}
        helped: set[str] = set()  # the first change of each kind that helps, the mildest
        for keeps, changes in _changes(card):
            if keeps in helped:
                continue
            try:
                made = plan(model, card=card, **{**more, **changes})
            except UsageError:
                continue
            judged = _judged(made, terms, keeps, rescued=True)
            if judged.meets:
                found.append(judged)
                helped.add(keeps)
    return found


def _changes(card: Card) -> Iterable[tuple[str, dict[str, Any]]]:
    pure = card.half or "fp16"
    yield "same", {"checkpointing": "blocks"}
    for count in SEVERAL:
        if card.form == "desktop" or card.series == "datacenter":
            yield "same", {"cards": count, "parallel": "fsdp", "checkpointing": "blocks"}
    yield "different", {"lora_rank": LORA_RANK, "precision": pure, "checkpointing": "blocks"}
    yield (
        "different",
        {"lora_rank": LORA_RANK, "precision": pure, "checkpointing": "blocks", "base_quantisation": "nf4"},
    )


def _how(made: Plan) -> str:
    """What was changed so that it fits."""
    recipe = made.recipe
    if recipe.cards > 1:
        return say("choose.how_shared", cards=recipe.cards)
    if recipe.lora_rank:
        return say(
            "choose.how_qlora" if recipe.base_quantisation != "none" else "choose.how_lora", rank=recipe.lora_rank
        )
    return say("choose.how_checkpointed")


# --- the order ------------------------------------------------------------------------------------------------------


def _order(each: Candidate) -> tuple[Any, ...]:
    """What meets the limits first; what one owns before what one would buy; then the cheapest, then the fastest."""
    card = each.plan.card
    unknown_cost = each.cost is None
    return (
        not each.meets,
        each.keeps != "same",
        each.plan.recipe.cards if each.rescued else 1,
        not each.owned,
        unknown_cost,
        each.cost or 0.0,
        each.hours or 1 / each.plan.time.samples_per_second,
        card.title,
    )


def _answer(rows: Sequence[Candidate]) -> str:
    first = rows[0]
    title = first.plan.card.title
    if not first.meets:
        return say("choose.none")
    if first.keeps != "same":
        return say("choose.adapters", card=title)
    if first.plan.recipe.cards > 1:
        adapters = next((each.plan.card.title for each in rows if each.meets and each.keeps != "same"), None)
        text = say("choose.several", count=first.plan.recipe.cards, card=title)
        return text if adapters is None else text + say("choose.or_adapters", card=adapters)
    if first.rescued:
        return say("choose.checkpointed", card=title)
    return say("choose.owned" if first.owned else "choose.best", card=title)
