"""evaluate(): measures a run on held-out samples and writes `report.html`, one file that needs no other, and the
model's card."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from fromzero import baselines, card, language, metrics, pictures, tasks
from fromzero.data.images import decode
from fromzero.data.manifest import SPLITS, Manifest
from fromzero.data.pack import read
from fromzero.data.rows.content import content, texts
from fromzero.errors import DataError, RunError, UnknownName, UnreadableImage
from fromzero.evaluation import (
    Evaluation,
    LanguageEvaluation,
    answers_of,
    counted,
    measure_language,
    measure_name,
    measure_text,
)
from fromzero.files import write_bytes, write_json, write_text
from fromzero.generating import generate
from fromzero.language import say
from fromzero.predicting import open_classifier
from fromzero.records import to_json
from fromzero.runs import Run
from fromzero.runtimes.torch_runtime import open_answer
from fromzero.terminal import Console, bytes_text, seconds_text
from fromzero.training import data_of

EXCERPT = 280  # characters of a text that are shown
VALUES = 12  # of a table's row
CASES = 12  # mistakes that are no pictures
PROMPT = 160  # characters of a held-out text that a language model goes on from
WARMTH = 0.8  # of what it writes then: the most probable words go round in circles
Figures = dict[str, bytes]


def evaluate(
    run: Path | str, split: str | None = None, console: Console | None = None
) -> Evaluation | LanguageEvaluation:
    """The run's best model on its test part (on the validation part where there is none), with `evaluation.json`,
    `figures/`, `report.html` and the card `README.md` written into the run."""
    console = console or Console()
    source = Run(Path(run))
    record, workload = source.record(), source.plan().workload
    manifest = data_of(source, console)
    if manifest.classes != source.labels():  # a new class folder renumbers the others
        raise RunError("data_changed", path=record["data"])
    if split not in (None, *SPLITS):
        raise UnknownName("split", str(split), SPLITS)
    samples = tasks.trained(workload.task).samples(manifest, source.preprocessing(), None, console)
    part = split or ("test" if len(samples.rows("test")) else "val")
    rows = samples.rows(part)
    if not len(rows):
        raise DataError("no_such_split", split=part)
    result: Evaluation | LanguageEvaluation
    drawn, written = _of_training(source), None
    if workload.task == "lm":
        result = measure_language(open_answer(source.path), samples, rows, part, console)
        written = _continued(source, manifest, part)
    else:
        classifier = open_classifier(source.path)
        scores, truth = answers_of(lambda inputs, _: classifier.scores(inputs), samples, rows, console)
        result = counted(classifier, scores, truth, samples, rows, part)
        result = _beside_baseline(source, result, manifest, console)
        drawn |= _of_classes(result, scores, truth)
    if samples.changed:
        console.line(say("evaluate.changed", count=len(samples.changed)))
    write_json(source.path / "evaluation.json", to_json(result))
    _write_report(source, result, drawn, manifest, written)
    if not card.write(source, result, manifest):
        console.line(say("card.not_ours", path=source.path / card.FILE))
    return result


def _beside(result: Evaluation | LanguageEvaluation, name: str) -> str:
    beside = getattr(result, "baseline", {})
    return measure_text(name, beside[name]) if name in beside else ""


def _beside_baseline(run: Run, result: Evaluation, manifest: Manifest, console: Console) -> Evaluation:
    """The measures of the method to beat, where the kind of data has one; made once for a run, as its data do not
    change."""
    kept = run.record().get("baseline")
    if kept is None and manifest.kind in baselines.KINDS:
        console.line(say("baseline.running"))
        kept = to_json(baselines.baseline(manifest))
        run.note(baseline=kept)
    if not kept or result.split not in kept["measures"]:
        return result
    return dataclasses.replace(result, baseline=kept["measures"][result.split], baseline_method=kept["method"])


def summary(result: Evaluation | LanguageEvaluation, run: Path) -> str:
    """The evaluation in one sentence."""
    split, report = say(f"split.{result.split}"), run / "report.html"
    if isinstance(result, LanguageEvaluation):
        doubt, loss = f"{result.perplexity:.4g}", f"{result.loss:.4f}"
        return say("evaluate.read", tokens=result.tokens, split=split, perplexity=doubt, loss=loss, report=report)
    low, high = result.interval
    return say(
        "evaluate.done",
        samples=result.samples,
        split=split,
        accuracy=f"{result.accuracy:.2%}",
        low=f"{low:.2%}",
        high=f"{high:.2%}",
        f1=f"{result.macro_f1:.3f}",
        report=report,
    )


def _write_report(
    run: Run,
    result: Evaluation | LanguageEvaluation,
    drawn: Figures,
    manifest: Manifest,
    written: tuple[str, str] | None,
) -> None:
    labels, plan, record = run.labels(), run.plan(), run.record()
    run.figures.mkdir(exist_ok=True)
    for name, png in drawn.items():
        write_bytes(run.figures / f"{name}.png", png)
    template = jinja2.Template(
        Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"), autoescape=True, trim_blocks=True
    )
    mistakes = getattr(result, "mistakes", ())[: None if manifest.kind == "pictures" else CASES]
    page = template.render(
        say=say,
        lang={"zh": "zh-CN"}.get(language.current(), "en"),
        run=run.path.name,
        plan=plan,
        result=result,
        tiles=_tiles(result),
        baseline=say(f"baseline.{result.baseline_method}")
        if isinstance(result, Evaluation) and result.baseline
        else "",
        measures=[
            (measure_name(name), measure_text(name, value), _beside(result, name))
            for name, value in _further(result).items()
        ],
        written=written,
        pairs=_predicted_beside_measured(record),
        figures={name: _data_url(png) for name, png in drawn.items()},
        training=[name for name in drawn if name not in OF_CLASSES and name != "confusion"],
        judged=[name for name in OF_CLASSES if name in drawn],
        positive=_positive(result),
        mistakes=list(zip(mistakes, _shown(manifest, [each.row for each in mistakes]), strict=True)),
        parameters=json.dumps(to_json(plan.recipe), indent=1),
        no_font=pictures.missing_font(labels),
        versions=record["versions"],
    )
    write_text(run.path / "report.html", page)


def _tiles(result: Evaluation | LanguageEvaluation) -> list[tuple[str, str]]:
    """The figures that stand first, each with what it is."""
    samples = (f"{result.samples:,}", say("report.samples"))
    if isinstance(result, LanguageEvaluation):
        return [
            (f"{result.perplexity:.4g}", say("report.perplexity", split=say(f"split.{result.split}"))),
            (f"{result.loss:.4f}", measure_name("loss")),
            (f"{result.tokens:,}", say("report.tokens")),
            (samples[0], say("report.blocks")),
        ]
    low, high = result.interval
    return [
        (f"{result.accuracy:.2%}", say("report.accuracy", split=say(f"split.{result.split}"))),
        (f"{low * 100:.1f}–{high * 100:.1f} %", say("report.interval")),
        (f"{result.macro_f1:.3f}", measure_name("macro_f1")),
        (f"{result.loss:.3f}", measure_name("loss")),
        samples,
    ]


def _positive(result: Evaluation | LanguageEvaluation) -> str:
    """The class of two that the curves are about, "" where there are none."""
    classes = getattr(result, "classes", ())
    counts = [each.samples for each in classes]
    which = metrics.positive(np.repeat(range(2), counts)) if len(counts) == 2 else 0
    return classes[which].label if len(counts) == 2 and all(counts) else ""


def _further(result: Evaluation | LanguageEvaluation) -> dict[str, float]:
    """What the task measures beside the tiles; all of it where there is a baseline to compare with."""
    if getattr(result, "baseline", None):
        return dict(getattr(result, "measures", {}))
    shown = ("loss", "accuracy", "macro_f1")
    return {name: value for name, value in getattr(result, "measures", {}).items() if name not in shown}


# --- figures ----------------------------------------------------------------------------------------------------------

OF_CLASSES = ("roc", "precision_recall", "reliability")


def _of_training(run: Run) -> Figures:
    """A panel for each thing that was measured while the model learnt."""
    history, steps = _table(run.metrics), _table(run.steps)
    epochs = [row["epoch"] for row in history]
    drawn = {}
    if history:
        both = {"report.training": "train_loss", "report.validation": "val_loss"}
        series = {say(key): (epochs, [row[name] for row in history]) for key, name in both.items()}
        drawn["loss"] = pictures.lines(say("report.loss"), say("report.epoch"), series)
    for column in history[0] if history else ():
        name = column.removeprefix("val_")
        if name != column and name != "loss":
            title, values = measure_name(name), [row.get(column, np.nan) for row in history]
            series = {say("report.validation"): (epochs, values)}
            drawn[column] = pictures.lines(title, say("report.epoch"), series)
    for name in ("lr", "gradient_norm"):
        points = [(row["step"], row[name]) for row in steps if name in row]
        if len(points) > 1:
            series = {name: ([place for place, _ in points], [value for _, value in points])}
            drawn[name] = pictures.lines(say(f"report.{name}"), say("report.steps"), series)
    return drawn


def _of_classes(result: Evaluation, scores: np.ndarray, truth: np.ndarray) -> Figures:
    labels = [each.label for each in result.classes]
    drawn = {"confusion": pictures.confusion(np.array(result.confusion), labels)}
    if len(labels) == 2 and len(np.unique(truth)) == 2:
        which = metrics.positive(truth)
        drawn["roc"] = pictures.roc(truth == which, scores[:, which])
        drawn["precision_recall"] = pictures.precision_recall(truth == which, scores[:, which])
    drawn["reliability"] = pictures.reliability(metrics.calibration(scores, truth))
    return drawn


def _table(path: Path) -> list[dict[str, float]]:
    """A CSV file of numbers; what is empty is left out."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _predicted_beside_measured(record: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, predicted, measured, difference) for memory, time and energy."""
    predicted, measured = record.get("predicted"), record.get("measured")
    if not predicted or not measured:
        return []
    memory, time = predicted["memory"], predicted["time"]
    rows = []
    for name, told, around, seen, text in (
        ("process_peak", memory["process_peak"], memory, measured["process_peak"], bytes_text),
        ("step", time["step"], time, measured["step"], seconds_text),
    ):
        interval = f"{text(told)} ({text(around['low'])} – {text(around['high'])})"
        difference = f"{(told / seen - 1) * 100:+.0f} %" if seen else ""
        rows.append((say(f"report.{name}"), interval, text(seen) if seen else "–", difference))
    if measured.get("kwh") is not None:
        note = say("report.assumed") if measured["power_assumed"] else ""
        told, seen = predicted.get("energy", {}).get("kwh"), measured["kwh"]
        difference = f"{(told / seen - 1) * 100:+.0f} %" if told and seen else ""
        rows.append(
            (say("report.energy"), card.energy_text(told), f"{card.energy_text(seen)} {note}".strip(), difference)
        )
    return rows


def _shown(manifest: Manifest, rows: list[int]) -> list[tuple[str | None, str]]:
    """Samples for a person: a small picture as a data URL (None if it is gone) or a text."""
    if not rows or manifest.kind == "pictures":
        return [(_thumbnail(manifest, row), "") for row in rows]
    if manifest.kind == "texts":
        return [(None, _excerpt(each, EXCERPT)) for each in texts(manifest, rows).to_pylist()]
    names = manifest.about["features"][:VALUES]
    return [
        (None, " · ".join(f"{name}: {_excerpt(row[name], 40)}" for name in names))
        for row in content(manifest, rows).to_pylist()
    ]


def _continued(run: Run, manifest: Manifest, part: str) -> tuple[str, str]:
    """The start of the first held-out text, or the first question of a dialogue, and what the model writes after it."""
    row = manifest.rows(part)[:1]
    if manifest.kind == "chats":
        turns = content(manifest, row).column("turns").to_pylist()[0]
        prompt = next((each["text"] for each in turns if each["role"] == "user"), "")
    else:
        prompt = texts(manifest, row).to_pylist()[0][:PROMPT]
    return prompt, generate(run.path, prompt, temperature=WARMTH, seed=run.plan().recipe.seed)


def _excerpt(value: Any, most: int) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "–" if value is None else " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _thumbnail(manifest: Manifest, row: int) -> str | None:
    """The picture itself, small, as a data URL; None if it is gone."""
    try:
        picture = decode(read(manifest, row), manifest.name(row)).convert("RGB")
    except UnreadableImage:
        return None
    picture.thumbnail((112, 112))
    target = io.BytesIO()
    picture.save(target, "PNG")
    return _data_url(target.getvalue())


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
