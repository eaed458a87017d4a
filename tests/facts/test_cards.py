"""The catalogue against whitepapers, and names against their cards."""

import csv
import re
from pathlib import Path

import pytest

import fromzero.facts.cards as module
from fromzero.errors import UnknownName, UsageError
from fromzero.facts.cards import GIB, card_of_device, catalogue, find_card

# Dense TFLOPS as printed by NVIDIA: (card, kind, figure, document).
WHITEPAPERS = [
    ("GTX 1080 Ti", "fp32", 11.3, "Turing whitepaper, table of GP102 and TU102"),
    ("RTX 2080 Ti", "fp32", 13.4, "Turing whitepaper (reference clock)"),
    ("RTX 2080 Ti", "fp16-acc16", 107.6, "Turing whitepaper"),
    ("RTX 2080 Ti", "fp16", 53.8, "Turing whitepaper"),
    ("Quadro RTX 6000", "fp16", 130.5, "Turing whitepaper"),
    ("TITAN RTX", "fp16", 130.5, "GA102 whitepaper"),
    ("RTX 3090", "fp32", 35.6, "GA102 whitepaper"),
    ("RTX 3090", "fp16-acc16", 142.0, "GA102 whitepaper"),
    ("RTX 3090", "fp16", 71.0, "GA102 whitepaper"),
    ("RTX 3090", "tf32", 35.6, "GA102 whitepaper"),
    ("RTX A6000", "fp16", 154.8, "GA102 whitepaper"),
    ("Tesla P100-SXM2-16GB", "fp32", 10.6, "A100 whitepaper"),
    ("Tesla P100-SXM2-16GB", "fp16-simt", 21.2, "A100 whitepaper"),
    ("Tesla V100-SXM2-16GB", "fp16", 125.0, "A100 whitepaper"),
    ("A100 SXM 40GB", "fp16", 312.0, "A100 whitepaper"),
    ("A100 SXM 40GB", "tf32", 156.0, "A100 whitepaper"),
    ("A100 SXM 40GB", "int8", 624.0, "A100 whitepaper"),
    ("RTX 4090", "fp32", 82.6, "Ada whitepaper, appendix A"),
    ("RTX 4090", "fp16", 165.2, "Ada whitepaper, appendix A"),
    ("RTX 4090", "fp8-acc16", 660.6, "Ada whitepaper, appendix A"),
    ("H100 SXM", "fp16", 989.4, "H100 whitepaper"),
    ("H100 PCIe", "bf16", 756.0, "H100 whitepaper"),
    ("RTX 5090", "fp16", 209.5, "RTX Blackwell whitepaper, appendix A"),
    ("RTX 5090", "fp4", 1676.0, "RTX Blackwell whitepaper, appendix A"),
    ("L4", "fp16", 121.0, "L4 data sheet, half of its sparse figure"),
]


@pytest.mark.parametrize(("name", "kind", "tflops", "document"), WHITEPAPERS)
def test_rate_agrees_with_whitepaper(name, kind, tflops, document):
    assert find_card(name).rates[kind] == pytest.approx(tflops * 1e12, rel=0.01), document


def test_catalogue_holds_every_series_and_no_card_twice():
    cards = catalogue()
    assert len(cards) >= 200
    assert {card.series for card in cards} == {
        "10", "16", "20", "30", "40", "50", "titan", "workstation", "datacenter"
    }  # fmt: skip
    assert len({(card.name, card.variant) for card in cards}) == len(cards)


def test_every_figure_is_sane_and_sourced():
    for card in catalogue():
        assert card.source, card.title
        assert 0.8 < card.usable_bytes / card.memory_bytes < 1, card.title
        assert 10e9 < card.bandwidth < 10e12, card.title
        assert card.tdp_watts > 0, card.title
        assert card.base_clock <= card.boost_clock, card.title
        assert ("bf16" in card.rates) == (float(card.compute_capability) >= 8), card.title
        assert card.form == ("server" if card.series == "datacenter" else card.form), card.title


def test_aliases_and_titles_select_their_own_card():
    for card in catalogue():
        assert find_card(card.title) == card
        for alias in card.aliases:
            assert find_card(alias) == card, alias


@pytest.mark.parametrize(
    ("spelling", "title"),
    [
        ("RTX 3090", "NVIDIA GeForce RTX 3090"),
        ("3090", "NVIDIA GeForce RTX 3090"),
        ("geforce rtx-3060 12gb", "NVIDIA GeForce RTX 3060 12 GB"),
        ("3060 12GB", "NVIDIA GeForce RTX 3060 12 GB"),
        ("1080ti", "NVIDIA GeForce GTX 1080 Ti"),
        ("GTX 1060 6 GB", "NVIDIA GeForce GTX 1060 6GB"),
        ("1650", "NVIDIA GeForce GTX 1650 GDDR5"),
        ("RTX 3080", "NVIDIA GeForce RTX 3080 10 GB"),
        ("RTX 2060", "NVIDIA GeForce RTX 2060 6 GB"),
        ("RTX 3060 laptop", "NVIDIA GeForce RTX 3060 Laptop GPU"),
        ("3060 mobile", "NVIDIA GeForce RTX 3060 Laptop GPU"),
        ("GTX 1070 laptop", "NVIDIA GeForce GTX 1070 laptop"),
        ("RTX 2070 Max-Q", "NVIDIA GeForce RTX 2070 with Max-Q Design"),
        ("A100 40GB SXM", "NVIDIA A100-SXM4-40GB"),
        ("a100 pcie 80gb", "NVIDIA A100 80GB PCIe"),
        ("L4", "NVIDIA L4"),
        ("L40", "NVIDIA L40"),
        ("A4000", "NVIDIA RTX A4000"),
        ("T4", "Tesla T4"),
    ],
)
def test_spelling(spelling, title):
    assert find_card(spelling).title == title


def test_bare_names_of_desktop_cards_never_mean_a_laptop():
    for name in ("GTX 1070", "RTX 2070", "2070 super", "GTX 1660 Ti", "RTX 3070"):
        assert find_card(name).form == "desktop"


@pytest.mark.parametrize("name", ["3060", "NVIDIA GeForce RTX 3060", "GTX 1060", "4060 Ti", "A100 40GB", "RTX 6000"])
def test_ambiguous_name_asks(name):
    with pytest.raises(UsageError) as raised:
        find_card(name)
    assert raised.value.code == "ambiguous_card"


def test_ambiguous_choices_leave_out_rechips():
    with pytest.raises(UsageError) as raised:
        find_card("3060")
    assert "12 GB" in raised.value.cause
    assert "8 GB" in raised.value.cause
    assert "GA104" not in raised.value.cause


@pytest.mark.parametrize("name", ["A400", "RTX 309", "RTX 40", "L4000", "GTX 3090", "4000", "", "RTX"])
def test_parts_of_names_match_nothing(name):
    with pytest.raises(UnknownName) as raised:
        find_card(name)
    assert raised.value.code == "unknown_card"


def test_unknown_name_has_near_matches():
    with pytest.raises(UnknownName) as raised:
        find_card("RTX 3091")
    assert "RTX 3090" in raised.value.near


@pytest.mark.parametrize(
    ("name", "mib", "title"),
    [
        ("NVIDIA GeForce RTX 3060", 12288, "NVIDIA GeForce RTX 3060 12 GB"),
        ("NVIDIA GeForce RTX 3060", 8192, "NVIDIA GeForce RTX 3060 8 GB"),
        ("GeForce RTX 2080 Ti", 11019, "NVIDIA GeForce RTX 2080 Ti"),
        ("Tesla T4", 15360, "Tesla T4"),
        ("NVIDIA L4", 23034, "NVIDIA L4"),
        ("NVIDIA H200", 143771, "NVIDIA H200"),
        ("NVIDIA GeForce GTX 1060", 6078, "NVIDIA GeForce GTX 1060 laptop"),
        ("NVIDIA GeForce RTX 2070 Super", 8192, "NVIDIA GeForce RTX 2070 Super laptop"),
        ("NVIDIA GeForce RTX 3070 Laptop GPU", 8192, "NVIDIA GeForce RTX 3070 Laptop GPU"),
    ],
)
def test_live_device(name, mib, title):
    assert card_of_device(name, mib << 20).title == title


def test_live_device_with_more_memory_than_was_sold_is_unknown():
    with pytest.raises(UnknownName):
        card_of_device("NVIDIA GeForce RTX 2080 Ti", 22 * GIB)


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """A user's file that holds a 2080 Ti with 22 GB."""
    with Path(module.__file__).with_name("cards.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    row = next(row for row in rows if row["name"] == "NVIDIA GeForce RTX 2080 Ti")
    path = tmp_path / "cards.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow({**row, "variant": "22 GB", "memory_gib": "22", "usable_gib": "", "common": "1"})
    monkeypatch.setenv("FROMZERO_CARDS", str(path))
    return path


def test_own_card_wins(own_file):
    assert find_card("2080 Ti").memory_bytes == 22 * GIB
    assert card_of_device("NVIDIA GeForce RTX 2080 Ti", 22 * GIB).variant == "22 GB"
    assert card_of_device("NVIDIA GeForce RTX 2080 Ti", 11 * GIB).variant == ""
    assert catalogue()[0].variant == "22 GB"


@pytest.mark.parametrize("content", ["name,variant\nx,y\n", "name;memory\n1;2\n", '"\n'])
def test_broken_own_file_is_named(own_file, tmp_path, monkeypatch, content):
    path = tmp_path / "broken.csv"
    path.write_text(content)
    monkeypatch.setenv("FROMZERO_CARDS", str(path))
    with pytest.raises(UsageError) as raised:
        find_card("3090")
    assert raised.value.code == "bad_card_file"
    assert str(path) in raised.value.cause


PAGES = ("docs/which-card.md", "docs/zh/which-card.md")


@pytest.mark.parametrize("page", PAGES)
def test_figures_of_the_documentation_are_the_catalogue_s(page):
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:GTX|RTX) \d{4}[^|]*) \| (.*GB/s.*) \|$", text, re.M)
    assert len(rows) == 10
    for name, figures in rows:
        card = find_card(name)
        tensor = card.rates.get("fp16", 0) / 1e12
        assert figures.split(" | ") == [
            f"{card.memory_bytes / GIB:g} GB",
            f"{card.bandwidth / 1e9:.0f} GB/s",
            f"{card.rates['fp32'] / 1e12:.1f}",
            f"{tensor:.1f}" if tensor else "-",
            card.compute_capability,
            f"{card.tdp_watts:.0f} W",
        ]
