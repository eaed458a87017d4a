"""The table of wheels and the rules for reading it."""

import pytest

from fromzero.facts.wheels import find_wheel, first_driver, index_url, last_branch, newest, partner, version, wheels


def test_table_is_whole():
    rows = wheels()
    assert len({(row.torch, row.cuda_tag) for row in rows}) == len(rows) == 45
    for row in rows:
        assert row.source
        assert row.evidence
        assert row.cuda_tag == f"cu{row.cuda.replace('.', '')}"
        assert row.torchvision or not row.verified
        assert version(row.kernels_linux[0]) < version(row.kernels_linux[-1])


def test_one_pypi_default_for_each_verified_release():
    for release in {row.torch for row in wheels() if row.verified}:
        assert sum(row.pypi_linux for row in wheels() if row.torch == release) == 1, release


@pytest.mark.parametrize(
    ("torch", "tag", "capability", "runs"),
    [
        ("2.14", "cu126", "6.1", True),  # GTX 1080 on sm_60
        ("2.14", "cu130", "6.1", False),
        ("2.14", "cu126", "8.9", True),  # RTX 4090 on sm_86
        ("2.14", "cu126", "12.0", False),
        ("2.7", "cu128", "12.0", True),
        ("2.7", "cu128", "12.1", True),
        ("2.7", "cu128", "7.0", False),
        ("2.10", "cu128", "7.0", True),
        ("2.11", "cu128", "7.0", False),
        ("2.14", "cu126", "8.7", False),  # a Jetson's own
        ("2.0", "cu117", "3.5", False),
        ("2.0", "cu118", "3.7", True),
    ],
)
def test_kernels(torch, tag, capability, runs):
    assert find_wheel(torch, tag).runs_on(capability, "linux") is runs


def test_ptx_is_linux_only_and_for_newer_cards():
    wheel = find_wheel("2.14", "cu132")
    assert wheel.compiles_for("13.0", "linux")
    assert not wheel.compiles_for("13.0", "windows")
    assert not wheel.compiles_for("9.0", "linux")


def test_partners():
    pairs = {"2.0.1": "0.15", "2.6.0+cu124": "0.21", "2.14.1": "0.29", "1.13": "0.14", "9.9": ""}
    assert {torch: partner(torch) for torch in pairs} == pairs


def test_last_line_for_old_cards():
    assert newest("cu126").torch == "2.14"
    assert newest("cu118").torch == "2.7"
    assert (last_branch("3.7"), last_branch("6.1"), last_branch("7.0"), last_branch("7.5")) == (470, 580, 580, None)
    assert (first_driver("12.0", "wsl"), first_driver("12.0", "linux"), first_driver("8.9", "linux")) == (
        "570.65",
        "570.26",
        "",
    )


def test_index_is_configurable(monkeypatch):
    monkeypatch.setenv("FROMZERO_WHEEL_INDEX", "https://mirror.example/whl/")
    assert index_url("cu126") == "https://mirror.example/whl/cu126"


def test_versions_compare_as_numbers():
    assert version("2.14.1+cu130") > version("2.9")
    with pytest.raises(ValueError, match="no version"):
        version("latest")
