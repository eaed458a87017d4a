"""The model's card: README.md in a run, in the form of Hugging Face's model cards. It says what was measured and
nothing else; what only its user can say stands between marks, and is kept when the card is written again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2

from fromzero import __version__
from fromzero.data.manifest import SPLITS, Manifest
from fromzero.evaluation import Evaluation, LanguageEvaluation, measure_name, measure_text
from fromzero.files import write_text
from fromzero.language import say
from fromzero.records import to_json
from fromzero.runs import Run
from fromzero.terminal import bytes_text, seconds_text

FILE = "README.md"
MOST_CLASSES = 30  # that are named
YOURS = re.compile(r"<!-- yours: (\w+) -->\n(.*?)\n<!-- /yours -->", re.DOTALL)
PIPELINES = {
    "image": "image-classification",
    "custom": "image-classification",
    "text": "text-classification",
    "lm": "text-generation",
    "table": "tabular-classification",
}
EXAMPLES = {"text": '"..."', "lm": '"..."', "table": "row.csv"}


def write(run: Run, result: Evaluation | LanguageEvaluation, manifest: Manifest) -> bool:
    """Write the card; False, and nothing done, where README.md is somebody else's."""
    path = run.path / FILE
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    yours = dict(YOURS.findall(before))
    if before and not yours:
        return False
    template = jinja2.Template(
        Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8"), trim_blocks=True, keep_trailing_newline=True
    )
    plan, record = run.plan(), run.record()
    recipe = to_json(plan.recipe)
    if recipe["pretrained"]:  # a card is for others: no folder of this machine
        recipe["pretrained"] = Path(recipe["pretrained"]).name
    body = template.render(
        say=say,
        plain=plain,
        yours=lambda name: f"<!-- yours: {name} -->\n{yours.get(name, say(f'card.yours_{name}'))}\n<!-- /yours -->",
        run=run.path.name,
        model=plan.workload.model.rpartition("/")[2],
        task=plan.workload.task,
        plan=plan,
        record=record,
        data=Path(record["data"]).name,
        classes=_classes(manifest.classes),
        parts=[(say(f"split.{each}"), len(manifest.rows(each))) for each in SPLITS],
        result=result,
        split=say(f"split.{result.split}"),
        results=results(result),
        weakest=_weakest(result),
        spent=_spent(record),
        example=EXAMPLES.get(plan.workload.task, "picture.png"),
        recipe=json.dumps(recipe, indent=1),
        version=__version__,
    )
    write_text(path, f"---\n{_front(run, result, path if before else None)}---\n{body}")
    return True


def results(result: Evaluation | LanguageEvaluation) -> list[tuple[str, str]]:
    """What was measured, as (name, value) for a person."""
    if isinstance(result, LanguageEvaluation):
        found = {"perplexity": result.perplexity, "loss": result.loss}
        rows = [(say("report.tokens"), f"{result.tokens:,}")]
    else:
        found = {**result.measures, "macro_f1": result.macro_f1, "loss": result.loss}
        found.pop("accuracy", None)
        low, high = (f"{each:.2%}" for each in result.interval)
        accuracy = say("card.interval", value=f"{result.accuracy:.2%}", low=low, high=high)
        rows = [(say("report.samples"), f"{result.samples:,}"), (measure_name("accuracy"), accuracy)]
    rows += [(measure_name(name), measure_text(name, value)) for name, value in found.items()]
    if isinstance(result, Evaluation) and result.baseline:
        method = say(f"baseline.{result.baseline_method}")
        rows += [
            (say("baseline.of", method=method, measure=measure_name(name)), measure_text(name, result.baseline[name]))
            for name in ("accuracy", "auc")
            if name in result.baseline
        ]
    return rows


def energy_text(kwh: float | None) -> str:
    """0.0123 -> "12.3 Wh"."""
    if kwh is None:
        return "–"
    return f"{kwh:.3g} kWh" if kwh >= 1 else f"{kwh * 1000:.3g} Wh"


def plain(text: object) -> str:
    """A name that Markdown takes as it stands, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(str(text).split()))


def _front(run: Run, result: Evaluation | LanguageEvaluation, path: Path | None) -> str:
    """The card's head in YAML. What its user wrote there (the licence, the language) stays."""
    import huggingface_hub
    from huggingface_hub.repocard import metadata_load

    plan, data = run.plan(), Path(run.record()["data"]).name
    language_model = isinstance(result, LanguageEvaluation)
    measured = (
        {"perplexity": result.perplexity, "loss": result.loss}
        if isinstance(result, LanguageEvaluation)
        else {"accuracy": result.accuracy, "f1": result.macro_f1, "loss": result.loss}
    )
    pipeline = PIPELINES[plan.workload.task]
    ours: dict[str, Any] = {
        "model_name": run.path.name,
        "library_name": "fromzero",
        "pipeline_tag": pipeline,
        "tags": ["fromzero", plan.workload.model.rpartition("/")[2]],
        "eval_results": [
            huggingface_hub.EvalResult(
                task_type=pipeline,
                dataset_type=re.sub(r"\W+", "-", data).strip("-").lower() or "data",
                dataset_name=data,
                dataset_split=result.split,
                metric_type=name,
                metric_name="Macro F1" if name == "f1" and not language_model else None,
                metric_value=round(value, 6),
            )
            for name, value in measured.items()
        ],
    }
    written = (metadata_load(path) if path else None) or {}
    theirs = {name: value for name, value in written.items() if name not in (*ours, "model-index")}
    return huggingface_hub.ModelCardData(**theirs, **ours).to_yaml() + "\n"


def _classes(names: tuple[str, ...]) -> str:
    named = say("card.comma").join(plain(each) for each in names[:MOST_CLASSES])
    return named + (say("card.more", count=len(names) - MOST_CLASSES) if len(names) > MOST_CLASSES else "")


def _weakest(result: Evaluation | LanguageEvaluation) -> list[Any]:
    """The classes that are found least often, of those with a mistake."""
    found = [each for each in getattr(result, "classes", ()) if each.samples and each.recall < 1]
    return sorted(found, key=lambda each: each.recall)[:3]


def _spent(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, predicted, measured) of a finished run."""
    measured, predicted = record.get("measured"), record.get("predicted", {})
    if not measured:
        return []
    note = " " + say("report.assumed") if measured.get("power_assumed") else ""
    memory, time = predicted.get("memory", {}), predicted.get("time", {})
    rows = [
        ("seconds", seconds_text, time.get("total"), measured.get("seconds"), ""),
        ("energy", energy_text, predicted.get("energy", {}).get("kwh"), measured.get("kwh"), note),
        ("process_peak", bytes_text, memory.get("process_peak"), measured.get("process_peak"), ""),
    ]
    return [
        (say(f"report.{name}"), text(told) if told else "–", (text(seen) if seen else "–") + more)
        for name, text, told, seen, more in rows
    ]
