"""diagnose(): what is wrong with a run, ranked by the evidence; apply(): a new run that has a fix.

records + probe -> the families of `diagnosis/` -> findings, ranked -> figures/ and diagnosis.json in the run
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromzero import diagnosis
from fromzero.diagnosis import Finding
from fromzero.diagnosis._facts import Facts
from fromzero.errors import FromzeroError, RunError, UnknownName
from fromzero.files import write_bytes, write_json
from fromzero.language import say
from fromzero.records import from_json, to_json
from fromzero.runs import Run
from fromzero.starting import train, words_of
from fromzero.terminal import Console

FILE = "diagnosis.json"
# What layers out of scale do to a run.
SCALED_WRONG = (
    "dead_units", "learning_rate_high", "learning_rate_low", "learning_rate_noisy", "overfitting", "saturated_softmax",
    "underfitting",
)  # fmt: skip
# What a finding explains by itself: the others stand behind it, as its symptoms.
EXPLAINS: Mapping[str, tuple[str, ...]] = {
    "nan_source": ("learning_rate_high", "exploding_gradients", "dead_units", "underfitting"),
    "label_noise": ("overfitting", "saturated_softmax", "learning_rate_noisy", "too_few_samples"),
    "bad_initialisation": ("vanishing_gradients", "exploding_gradients", *SCALED_WRONG),
    "vanishing_gradients": SCALED_WRONG,
    "exploding_gradients": SCALED_WRONG,
    "learning_rate_high": ("dead_units", "underfitting", "learning_rate_noisy"),
    "learning_rate_low": ("underfitting",),
    "dead_units": ("underfitting",),
    "tiny_batch_norm": ("learning_rate_noisy", "underfitting"),
    "too_few_samples": ("overfitting", "saturated_softmax"),
    "overfitting": ("saturated_softmax",),
}


@dataclass(frozen=True, kw_only=True)
class Told:
    """A finding in words: what was seen and what to do. `because` names the finding it follows from ("" for a cause of
    its own), `apply` is the command that carries the fix out ("" where there is none), `figure` its picture in the
    run."""

    finding: Finding
    name: str
    text: str
    fix: str
    because: str = ""
    apply: str = ""
    figure: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong with a run, causes before symptoms and the surest first. `unchecked` names the families that could
    not look, and why."""

    run: str
    findings: tuple[Told, ...]
    checked: tuple[str, ...]
    unchecked: Mapping[str, str] = field(default_factory=dict)


def diagnose(run: Path | str, console: Console | None = None) -> Diagnosis:
    """Look at a run, finished, stopped or failed. Writes `diagnosis.json` and a picture a finding into it. Raises
    RunError for a folder that is none, or a run that has not done a step."""
    console = console or Console()
    source = Run(Path(run))
    facts = Facts(source, console)
    if not facts.rows and not facts.broken:
        raise RunError("nothing_to_diagnose", path=source.path)
    found: list[tuple[Finding, bytes]] = []
    unchecked: dict[str, str] = {}
    families = diagnosis.families()
    with console.progress(say("diagnose.looking"), len(families)) as advance:
        for name, family in families.items():
            try:
                found += [(each, family.draw(facts, each)) for each in family.find(facts)]
            except FromzeroError as error:
                unchecked[name] = error.cause
            advance()
    pictures = {finding.code: picture for finding, picture in found}
    told = [_told(source, finding, because) for finding, because in ranked([finding for finding, _ in found])]
    source.figures.mkdir(exist_ok=True)
    for old in source.figures.glob("diagnose-*.png"):
        old.unlink()
    for each in told:
        write_bytes(source.path / each.figure, pictures[each.finding.code])
    checked = tuple(code for name, family in families.items() if name not in unchecked for code in family.CODES)
    made = Diagnosis(run=str(source.path), findings=tuple(told), checked=checked, unchecked=unchecked)
    write_json(source.path / FILE, to_json(made))
    return made


def ranked(findings: list[Finding]) -> list[tuple[Finding, str]]:
    """Causes, the strongest first, each followed by nothing; then their symptoms, each with the cause it follows
    from."""
    by_strength = sorted(findings, key=lambda each: (-each.strength, each.code))
    because = {
        each.code: next((cause.code for cause in by_strength if each.code in EXPLAINS.get(cause.code, ())), "")
        for each in by_strength
    }
    return [(each, because[each.code]) for each in sorted(by_strength, key=lambda each: bool(because[each.code]))]


def _told(run: Run, finding: Finding, because: str) -> Told:
    values = {**finding.evidence, "where": _some(finding.where), "change": _change(finding)}
    kind = finding.evidence.get("cause") or finding.evidence.get("kind") if finding.code in _KINDS else ""
    key = f"diagnose.{finding.code}" + (f".{kind}" if kind else "")
    fix = say(f"{key}.fix", **values)
    apply = f"fromzero train {shlex.quote(str(run.path))} --apply {finding.code}" if finding.applicable else ""
    return Told(
        finding=finding,
        name=say(f"diagnose.{finding.code}.name"),
        text=say(key, **values),
        fix=fix,
        because=because,
        apply=apply,
        figure=f"figures/diagnose-{finding.code}.png",
    )


_KINDS = ("nan_source", "leakage")  # findings whose sentence depends on what was found
MOST_NAMED = 6


def _some(where: tuple[str, ...]) -> str:
    more = len(where) - MOST_NAMED
    return ", ".join(where[:MOST_NAMED]) + (say("diagnose.more", count=more) if more > 0 else "")


def _change(finding: Finding) -> str:
    """The fix as flags, for a person."""
    return shlex.join(
        part
        for name, value in finding.words.items()
        for part in (f"--{name.replace('_', '-')}", "default" if value is None else str(value))
    )


def apply(
    run: Path | str, code: str, *, output: Path | str | None = None, console: Console | None = None, **words: Any
) -> Run:
    """A new run beside the old one, with the recipe of the old but for the fix of its finding `code`, and for `words`.
    Raises UnknownName for a finding that the run does not have, RunError for one without a fix that a run can be
    told."""
    console = console or Console()
    source = Run(Path(run))
    if code not in diagnosis.codes():
        raise UnknownName("finding", code, diagnosis.codes())
    finding = _kept(source, code) or next(
        (each.finding for each in diagnose(source.path, console).findings if each.finding.code == code), None
    )
    if finding is None:
        raise RunError("no_such_finding", path=source.path, finding=code)
    if not finding.applicable:
        raise RunError("finding_not_applicable", path=source.path, finding=code)
    record = source.record()
    device = "cpu" if record.get("device") == "cpu" else "auto"
    resize = getattr(source.preprocessing(), "resize", None)
    changed = {"device": device, "resize": resize, **words_of(source.plan()), **finding.words, **words}
    if "model" in finding.words:  # what belonged to the other network
        changed = {name: value for name, value in changed.items() if name not in ("lr", "dropout", "pretrained")}
    os.environ.update(finding.environment)
    fold = record.get("fold")
    without = [*record.get("without", ()), *finding.without]
    told = {name: changed[name] for name in finding.words if name in changed}  # the caller's word goes before the fix's
    change = _all(dataclasses.replace(finding, words=told))
    console.line(say("diagnose.applying", finding=say(f"diagnose.{code}.name"), change=change))
    made = train(
        record["data"],
        output=output or _beside(source.path, code),
        fold=tuple(fold) if fold else None,
        without=without,
        console=console,
        **changed,
    )
    made.note(mended={"run": str(source.path), "finding": code, "words": told})
    return made


def _all(finding: Finding) -> str:
    parts = [_change(finding)] if finding.words else []
    rows = [each for each in finding.without if isinstance(each, int)]
    columns = [str(each) for each in finding.without if isinstance(each, str)]
    parts += [say("diagnose.without", count=len(rows))] if rows else []
    parts += [say("diagnose.without_columns", names=", ".join(columns))] if columns else []
    parts += [f"{name}={value}" for name, value in finding.environment.items()]
    return ", ".join(parts)


def _kept(run: Run, code: str) -> Finding | None:
    """The finding as an earlier look wrote it down, if the run did not change since."""
    path = run.path / FILE
    try:
        if path.stat().st_mtime < max((run.path / name).stat().st_mtime for name in ("run.json", "plan.json")):
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))["findings"]
        found = [from_json(Finding, each["finding"]) for each in kept if each["finding"]["code"] == code]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next(iter(found), None)


def _beside(path: Path, code: str) -> Path:
    """`<run>-<finding>`, with a number where that is taken."""
    name = f"{path.resolve().name}-{code.replace('_', '-')}"
    taken = (path.resolve().with_name(name if number == 1 else f"{name}-{number}") for number in range(1, 10_000))
    return next(each for each in taken if not each.exists())


def summary(made: Diagnosis) -> str:
    """The diagnosis as a person reads it."""
    lines = [] if made.findings else [say("diagnose.healthy", count=len(made.checked))]
    for number, each in enumerate(made.findings, 1):
        lines += [f"{number}. {each.name}: {each.text}"]
        if each.because:
            lines.append("   " + say("diagnose.because", finding=say(f"diagnose.{each.because}.name")))
        lines.append("   " + each.fix)
        lines += [f"   $ {each.apply}"] if each.apply else []
        lines.append(f"   {Path(made.run) / each.figure}")
    lines += [say("diagnose.unchecked", family=name, reason=reason) for name, reason in made.unchecked.items()]
    return "\n".join(lines)


def as_json(made: Diagnosis) -> dict[str, Any]:
    """One flat object a finding, for programs."""
    findings = []
    for each in made.findings:
        told = {f.name: getattr(each, f.name) for f in dataclasses.fields(each) if f.name != "finding"}
        findings.append({**to_json(each.finding), **told})
    return {"run": made.run, "findings": findings, "checked": list(made.checked), "unchecked": dict(made.unchecked)}
