"""Which card: what is owned, what is rented, what fits, and why the others do not."""

from __future__ import annotations

import json

import pytest

from fromzero.choosing import best_precision, choose
from fromzero.cli import main
from fromzero.errors import UnknownName, UsageError
from fromzero.facts.cards import find_card

JOB = {"imgsz": 64, "classes": 10, "batch": 64, "samples": 50_000, "epochs": 10}
FEW = [find_card(name) for name in ("GTX 1080 Ti", "RTX 3060 12 GB", "RTX 4090")]


def titles(found):
    return [each.plan.card.title for each in found.candidates]


def test_without_prices_the_fastest_comes_first():
    found = choose("resnet18", cards=FEW, **JOB)
    assert titles(found)[0].endswith("RTX 4090")
    hours = [each.hours for each in found.candidates]
    assert hours == sorted(hours)
    assert all(each.cost is None for each in found.candidates)


def test_the_card_at_hand_is_enough():
    found = choose("resnet18", cards=FEW, own=["RTX 3060 12 GB"], tariff=0.3, currency="EUR", **JOB)
    first = found.candidates[0]
    assert first.owned and "RTX 3060" in first.plan.card.title
    assert "RTX 3060" in found.answer
    assert first.cost == pytest.approx(first.kwh * 0.3)


def test_rent_is_by_the_hour_and_a_budget_rules_cards_out():
    found = choose("resnet18", cards=FEW, rents={"RTX 4090": 0.5, "RTX 3060 12 GB": 10.0}, budget=1.0, **JOB)
    by_name = {each.plan.card.title: each for each in found.candidates}
    rented = by_name["NVIDIA GeForce RTX 4090"]
    assert rented.cost == pytest.approx(0.5 * rented.hours)
    assert not by_name["NVIDIA GeForce GTX 1080 Ti"].meets  # no price was given, none is made up
    assert by_name["NVIDIA GeForce GTX 1080 Ti"].cost is None


def test_a_price_is_paid_once():
    found = choose("resnet18", cards=FEW, prices={"RTX 3060 12 GB": 250.0}, **JOB)
    bought = next(each for each in found.candidates if each.cost is not None)
    assert bought.costs["purchase"] == 250.0


def test_limits_are_said():
    found = choose("resnet18", cards=FEW, watts=200, hours=1e-6, min_memory=16 << 30, **JOB)
    assert not any(each.meets for each in found.candidates)
    assert all(each.reason for each in found.candidates)


@pytest.mark.slow
def test_a_job_too_large_for_one_card_is_shared_or_adapted():
    found = choose("hf:meta-llama/Llama-2-7b", cards=[find_card("RTX 3090")], batch=1, seq=256)
    kinds = {(each.keeps, each.plan.recipe.cards > 1) for each in found.candidates if each.meets}
    assert kinds, [each.reason for each in found.candidates]
    first = found.candidates[0]
    assert first.meets and (first.plan.recipe.cards > 1 or first.plan.recipe.lora_rank)


def test_hours_need_a_length():
    with pytest.raises(UsageError) as caught:
        choose("resnet18", hours=1, imgsz=64)
    assert caught.value.code == "hours_need_samples"


def test_an_unknown_series_has_near_matches():
    with pytest.raises(UnknownName):
        choose("resnet18", series=["33"], **JOB)


def test_the_precision_of_a_card():
    assert [best_precision(each) for each in FEW] == ["fp32", "amp-bf16", "amp-bf16"]
    assert best_precision(find_card("RTX 2060")) == "amp-fp16"


def test_the_command_gives_a_table_json_and_a_picture(capsys, tmp_path):
    words = ["choose", "resnet18", "--imgsz", "64", "--batch", "64", "--series", "10", "--samples", "1000"]
    assert main([*words, "--picture", str(tmp_path / "cards.png")]) == 0
    assert "GTX 1080 Ti" in capsys.readouterr().out
    assert (tmp_path / "cards.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["candidates"][0]["plan"]["verdict"] == "fits"
    assert main([*words, "--hours", "0.0000001"]) == 1
    capsys.readouterr()
    assert main([*words, "--price", "RTX 3090"]) == 2
    assert main([*words, "--price", "RTX 3090=-5"]) == 2
