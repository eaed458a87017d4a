"""What the data do to a run: labels that are wrong, and held-out samples that it has seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fromzero.data.check import check
from fromzero.data.columns import Words
from fromzero.data.findings.telling import names, rows_named
from fromzero.diagnosis import Finding
from fromzero.diagnosis import _drawing as drawing
from fromzero.diagnosis._facts import Facts
from fromzero.language import say

CODES = ("label_noise", "leakage")

NOISY = 0.05  # share of the training labels that others contradict; clean sets of hard pictures show 1 to 3 %
TRUSTED = 0.4  # how far from guessing the judge is (Cohen's kappa); of hard data it contradicts many labels in vain
LEAKING = 0.01  # share of the held-out samples that have a copy in the training part
FEWEST = 3  # one pair may be chance
COMPARED = 4000  # training samples that are compared with a quarter as many of validation
LEAST_COMPARED = 20
CLOSE = 0.3  # of the usual distance to the nearest other sample
CHANCE = 3.0  # times as often among the training samples themselves
NAMED = 20  # samples that are named; the rest is counted


def find(facts: Facts) -> Iterator[Finding]:
    yield from _label_noise(facts)
    yield from _leakage(facts)


def _label_noise(facts: Facts) -> Iterator[Finding]:
    """By confident learning out of fold, as `data check` does it: the model itself may have learnt them by heart."""
    entries = facts.report.findings.get("label_suspects", [])
    rows = rows_named(facts.manifest, (entry["file"] for entry in entries))
    training = set(facts.manifest.rows("train").tolist())
    mine = [(entry, rows[entry["file"]]) for entry in entries if rows.get(entry["file"]) in training]
    share = len(mine) / max(1, len(training))
    if share < NOISY or facts.reference is None or facts.reference - facts.chance < TRUSTED * (1 - facts.chance):
        return
    evidence = {
        "share": share,
        "count": len(mine),
        "samples": len(training),
        **{name: mine[0][0][name] for name in ("label", "suggested")},
    }
    if facts.train is not None:
        there = np.isin(facts.train.rows, [row for _, row in mine])
        if there.any():
            evidence["learnt"] = float(facts.train.right[there].mean())
    yield Finding(
        code="label_noise",
        strength=share / NOISY,
        evidence=evidence,
        where=tuple(entry["file"] for entry, _ in mine[:NAMED]),
        without=tuple(sorted(row for _, row in mine)),
    )


def _leakage(facts: Facts) -> Iterator[Finding]:
    """Columns that are the target in disguise, and training samples with a copy in a held-out part."""
    columns = _columns(facts)
    where = tuple(each["column"] for each in columns)
    if columns:
        evidence = {"columns": len(columns), "column": where[0], "score": columns[0].get("score", 1.0)}
        yield Finding(
            code="leakage", strength=10.0, evidence={"kind": "column", **evidence}, where=where, without=where
        )
        return
    pairs = _copies(facts) | _nearly(facts)
    held = sum(len(facts.manifest.rows(part)) for part in ("val", "test"))
    share = len(pairs) / max(1, held)
    if len(pairs) < FEWEST or share < LEAKING:
        return
    copies = {row for rows in pairs.values() for row in rows}
    evidence = {"kind": "rows", "count": len(pairs), "held": held, "share": share, "copies": len(copies)}
    if facts.val is not None:
        there = np.isin(facts.val.rows, list(pairs))
        if there.any() and not there.all():
            evidence |= {"seen": float(facts.val.right[there].mean()), "unseen": float(facts.val.right[~there].mean())}
    yield Finding(
        code="leakage",
        strength=share / LEAKING,
        evidence=evidence,
        where=tuple(facts.manifest.name(row) for row in sorted(pairs)[:NAMED]),
        without=tuple(sorted(copies)),
    )


def _columns(facts: Facts) -> list[dict[str, Any]]:
    """Columns of a table that tell the class by themselves, in what training and validation saw: whether the test knows
    them too is the question."""
    manifest = facts.manifest
    if manifest.kind != "table":
        return []
    problem = manifest["problem"]
    codes = problem.codes.copy()
    codes[manifest.rows("test")] = len(problem.words)
    seen = manifest.with_column("problem", Words(codes, (*problem.words, "held_out")))
    found = check(seen, facts.console, suspects=False).findings["leaking_columns"]
    return [each for each in found if each["reason"] != "row_number"]


def _copies(facts: Facts) -> dict[int, set[int]]:
    """Held-out rows -> the training rows that `data check` calls copies of them. A split by fromzero puts such groups
    on one side by itself; one that follows groups or time need not."""
    manifest = facts.manifest
    held = {row for part in ("val", "test") for row in manifest.rows(part).tolist()}
    training = set(manifest.rows("train").tolist())
    found: dict[int, set[int]] = {}
    for kind in ("leakage", "exact_duplicates", "near_duplicates"):
        for entry in facts.report.findings.get(kind, []):
            rows = list(rows_named(manifest, names(entry)).values())
            mine = training.intersection(rows)
            found |= {row: mine | found.get(row, set()) for row in held.intersection(rows) if mine}
    return found


def _nearly(facts: Facts) -> dict[int, set[int]]:
    """Validation rows -> a training row that is nearer than samples of this set lie to each other: the same patient
    measured twice, the next picture of a burst. What such pairs are there by chance is seen among the training rows
    themselves, and must be far fewer."""
    from sklearn.neighbors import NearestNeighbors

    if facts.kind == "lm":  # windows of one text after the other: the next is always near
        return {}
    manifest = facts.manifest
    train, val = facts.some("train", COMPARED), facts.some("val", COMPARED // 4)
    if len(train) < LEAST_COMPARED or len(val) < LEAST_COMPARED:
        return {}
    features = facts.features(np.concatenate([train, val]))[0]
    mine, theirs = features[: len(train)], features[len(train) :]
    nearest = NearestNeighbors(n_neighbors=2).fit(mine)
    among = nearest.kneighbors(mine)[0][:, 1]
    apart, place = (each[:, 0] for each in nearest.kneighbors(theirs, n_neighbors=1))
    near = CLOSE * float(np.median(among))
    close = apart < near
    if near <= 0 or close.mean() < LEAKING + CHANCE * float((among < near).mean()):
        return {}
    labels = manifest["label"]
    pairs = zip(val[close].tolist(), train[place[close]].tolist(), strict=True)
    return {row: {other} for row, other in pairs if labels[row] == labels[other]}


def draw(facts: Facts, finding: Finding) -> bytes:
    evidence = finding.evidence
    if finding.code == "label_noise":
        entries = facts.report.findings["label_suspects"]
        called = [f"{each['label']} → {each['suggested']}" for each in entries]
        pairs, counts = np.unique(called, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:12]
        title = say("diagnose.draw.suspects")
        return drawing.bars(title, [str(pairs[each]) for each in order], counts[order].tolist())
    if evidence["kind"] == "column":
        return drawing.bars(say("diagnose.draw.column"), list(finding.where), [evidence["score"]] * len(finding.where))
    bars = {"seen": evidence.get("seen", 0.0), "unseen": evidence.get("unseen", 0.0)}
    shown = [say(f"diagnose.draw.{each}") for each in bars]
    return drawing.bars(say("diagnose.draw.leakage"), shown, list(bars.values()), marked=shown[:1])
