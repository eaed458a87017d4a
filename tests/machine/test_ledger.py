"""The ledger of predicted and measured runs, and the correction that follows from it."""

from __future__ import annotations

import dataclasses

import pytest

from fromzero.machine import ledger
from fromzero.machine.ledger import Entry, correction, entries, note


def entry(ratio=1.0, device="cpu"):
    return Entry(
        when="2026-11-22T06:00+00:00", device=device, model="cnn", batch=128, precision="fp32", torch="2.14.1",
        predicted_step=0.1, measured_step=0.1 * ratio, predicted_bytes=10, measured_bytes=11,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMZERO_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def test_lines_come_back_in_order_and_by_device():
    for each in (entry(1.0), entry(2.0, "RTX 3090"), entry(3.0)):
        note(each)
    assert entries() == [entry(1.0), entry(2.0, "RTX 3090"), entry(3.0)]
    assert entries("cpu") == [entry(1.0), entry(3.0)]


def test_a_broken_line_costs_only_itself(own_state):
    note(entry())
    with (own_state / ledger.NAME).open("a") as file:
        file.write('{"when": "cut o\n[]\n{"device": "cpu"}\n')
    note(entry(2.0))
    assert len(entries()) == 2


def test_no_folder_no_line_and_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FROMZERO_STATE", str(tmp_path / "file" / "below"))
    note(entry())
    assert entries() == []


def test_the_correction_moves_towards_what_was_seen():
    assert correction([]) == 1.0
    assert 1.0 < correction([entry(1.5)]) < 1.5
    assert correction([entry(1.5)]) < correction([entry(1.5)] * 5) < 1.5
    assert correction([entry(0.5)] * 3) < 1.0


def test_a_disturbed_run_teaches_nothing():
    assert correction([entry(50.0)]) == 1.0
    assert correction([entry(1.2), entry(1.2), entry(50.0)]) == correction([entry(1.2), entry(1.2)])


def test_only_the_last_runs_count():
    old = [entry(3.0)] * 10
    assert correction(old + [entry(1.0)] * ledger.LAST) == pytest.approx(1.0)


def test_an_entry_without_a_measurement_is_left_out():
    note(dataclasses.replace(entry(), measured_step=0.0))
    assert entries() == []
