"""evaluate(): measures a run on held-out pictures and writes `report.html`, one file that needs no other."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from fromzero import language, pictures
from fromzero.data.images import decode
from fromzero.data.load import Pictures, keep_decoded
from fromzero.data.manifest import SPLITS, Manifest
from fromzero.data.pack import read
from fromzero.errors import DataError, RunError, UnknownName, UnreadableImage
from fromzero.evaluation import Evaluation, measure
from fromzero.files import write_json, write_text
from fromzero.language import say
from fromzero.predicting import open_classifier
from fromzero.preparing import prepare
from fromzero.records import to_json
from fromzero.runs import Run
from fromzero.terminal import Console, bytes_text, seconds_text


def evaluate(run: Path | str, split: str | None = None, console: Console | None = None) -> Evaluation:
    """The run's best model on its test pictures (on validation pictures where there is no test set), with
    `evaluation.json`, `figures/` and `report.html` written into the run."""
    console = console or Console()
    source = Run(Path(run))
    record = source.record()
    manifest = prepare(record["data"], console)
    if manifest.classes != source.labels():  # a new class folder renumbers the others
        raise RunError("data_changed", path=record["data"])
    if split not in (None, *SPLITS):
        raise UnknownName("split", str(split), SPLITS)
    part = split or ("test" if len(manifest.rows("test")) else "val")
    rows = manifest.rows(part)
    if not len(rows):
        raise DataError("no_such_split", split=part)
    how = source.preprocessing()
    kept = keep_decoded(manifest, how, console) if how.crop == 1.0 else None
    samples = Pictures(manifest, how, kept=kept)
    result = measure(open_classifier(source.path), samples, rows, part, console)
    if samples.changed:
        console.line(say("evaluate.changed", count=len(samples.changed)))
    write_json(source.path / "evaluation.json", to_json(result))
    _write_report(source, result, manifest)
    return result


def summary(result: Evaluation, run: Path) -> str:
    """The evaluation in one sentence."""
    low, high = result.interval
    return say(
        "evaluate.done",
        samples=result.samples,
        split=say(f"split.{result.split}"),
        accuracy=f"{result.accuracy:.2%}",
        low=f"{low:.2%}",
        high=f"{high:.2%}",
        f1=f"{result.macro_f1:.3f}",
        report=run / "report.html",
    )


def _write_report(run: Run, result: Evaluation, manifest: Manifest) -> None:
    labels = run.labels()
    history = _history(run)
    drawn = {
        "curves": pictures.curves(history) if history else None,
        "confusion": pictures.confusion(np.array(result.confusion), labels),
    }
    run.figures.mkdir(exist_ok=True)
    for name, png in drawn.items():
        if png:
            (run.figures / f"{name}.png").write_bytes(png)
    template = jinja2.Template(
        Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"), autoescape=True, trim_blocks=True
    )
    plan = run.plan()
    page = template.render(
        say=say,
        lang={"zh": "zh-CN"}.get(language.current(), "en"),
        run=run.path.name,
        plan=plan,
        result=result,
        pairs=_predicted_beside_measured(run.record()),
        figures={name: _data_url(png) for name, png in drawn.items() if png},
        mistakes=[(each, _thumbnail(manifest, each.row)) for each in result.mistakes],
        recipe=to_json(plan.recipe),
        parameters=json.dumps(to_json(plan.recipe), indent=1),
        no_font=pictures.missing_font(labels),
        versions=run.record()["versions"],
    )
    write_text(run.path / "report.html", page)


def _history(run: Run) -> list[dict[str, float]]:
    if not run.metrics.is_file():
        return []
    with run.metrics.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _predicted_beside_measured(record: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, predicted, measured, difference) for memory and time."""
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
        rows.append((say("report.energy"), "", f"{measured['kwh'] * 1000:.2f} Wh {note}".strip(), ""))
    return rows


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
