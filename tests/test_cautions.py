"""Recipes that waste weeks, on real cards of the catalogue."""

from __future__ import annotations

import pytest

from fromzero.cautions import cautions, check_bf16, cpu_computes_bf16, safe_precision
from fromzero.errors import UsageError
from fromzero.facts.cards import catalogue, find_card
from fromzero.records import Recipe


def codes(card, **words):
    return {each.code for each in cautions(Recipe(**words), find_card(card))}


@pytest.mark.parametrize("card", ["GTX 1660 Ti", "GTX 1660 SUPER", "GTX 1650 GDDR6", "GTX 1630"])
def test_half_precision_gives_nan_on_cards_of_the_16_series(card):
    assert codes(card, precision="amp-fp16") == {"fp16_gives_nan"}
    assert safe_precision("amp-fp16", find_card(card)) == "fp32"
    assert safe_precision("fp32", find_card(card)) == "fp32"


def test_training_on_such_a_card_takes_fp32_and_says_why():
    from fromzero.starting import _planned
    from fromzero.terminal import Console

    told = []

    class Heard(Console):
        def line(self, text: str) -> None:
            told.append(text)

    made = _planned("cnn", Heard(), card="GTX 1660 Ti", batch=2, imgsz=16, classes=3, precision="amp-fp16")
    assert made.recipe.precision == "fp32"
    assert len(told) == 1 and "NaN" in told[0] and "GTX 1660 Ti" in told[0]


def test_half_precision_gains_nothing_on_pascal_but_gives_numbers():
    assert codes("GTX 1080 Ti", precision="amp-fp16") == {"half_not_faster"}
    assert safe_precision("amp-fp16", find_card("GTX 1080 Ti")) == "amp-fp16"


@pytest.mark.parametrize("card", ["RTX 2060 6 GB", "RTX 3060 12 GB", "RTX 4090"])
def test_half_precision_is_right_where_there_are_tensor_cores(card):
    assert codes(card, precision="amp-fp16") == set()


def test_bf16_is_emulated_before_ampere():
    assert codes("RTX 2080 Ti", precision="amp-bf16") == {"bf16_emulated"}
    assert codes("RTX 3090", precision="amp-bf16") == set()


def test_no_card_but_the_16_series_is_sent_back_to_fp32():
    sent = {card.series for card in catalogue() if safe_precision("amp-fp16", card) == "fp32"}
    assert sent == {"16"}


def test_recipes_that_defeat_themselves():
    card = "RTX 3090"
    assert codes(card, schedule="plateau", patience=3) == {"plateau_never_reached"}
    assert codes(card, schedule="plateau", patience=10) == set()
    assert codes(card, class_weights="balanced", sampling="sqrt") == {"balanced_twice"}
    assert codes(card, ema=0.9999) == {"average_too_slow"} and codes(card, ema=0.999) == set()
    assert codes(card, layer_decay=0.8, freeze="backbone") == {"decay_of_frozen"}


def test_bf16_on_a_cpu_without_it_is_refused():
    old, new = {"avx2": True, "avx512_bf16": False}, {"avx2": True, "avx512_bf16": True}
    assert not cpu_computes_bf16(old) and cpu_computes_bf16(new)
    check_bf16("amp-bf16", True, new)
    check_bf16("amp-bf16", False, old)
    check_bf16("fp32", True, old)
    with pytest.raises(UsageError) as caught:
        check_bf16("amp-bf16", True, old)
    assert caught.value.code == "no_bf16_on_cpu"
