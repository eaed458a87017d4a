"""fromzero train DATA ... | --resume RUN"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fromzero.commands import _words
from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.records import RESIZES
from fromzero.terminal import Terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", help=say("flag.data"))
    parser.add_argument("--resume", type=Path, metavar="RUN", help=say("flag.resume"))
    parser.add_argument("--apply", metavar="FINDING", help=say("flag.apply_finding"))
    parser.add_argument("--plan", type=Path, metavar="FILE", help=say("flag.plan"))
    parser.add_argument("--model", help=say("flag.model"))
    parser.add_argument("--output", type=Path, help=say("flag.run_output"))
    parser.add_argument("--imgsz", type=_words.within(int, 1), help=say("flag.imgsz"))
    parser.add_argument("--resize", choices=RESIZES, help=say("flag.resize"))
    parser.add_argument("--seq", type=_words.within(int, 1), help=say("flag.seq"))
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help=say("flag.device"))
    parser.add_argument("--folds", type=_words.within(int, 2), metavar="N", help=say("flag.folds"))
    parser.add_argument("--target", type=_words.within(float, 0), metavar="N", help=say("flag.target"))
    parser.add_argument("--budget", type=_words.within(int, 1), metavar="RUNS", help=say("flag.budget"))
    parser.add_argument("--track", metavar="NAMES", default="", help=say("flag.track"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))
    _words.add_recipe(parser)


def run(options: argparse.Namespace) -> int:
    if (options.data is None) == (options.resume is None):
        raise UsageError("data_or_resume")
    from fromzero.starting import train
    from fromzero.training import resume

    console = Terminal()
    if options.apply:
        done = _applied(options, console)
    elif options.resume is not None:
        _alone(options)
        done = resume(options.resume, console)
    else:
        words = {**_from_plan(options.plan), **_words.given(options, "model", "imgsz", "resize", "seq")}
        words |= {"output": options.output, "device": options.device, "track": options.track}
        if options.folds and options.target is not None:
            raise UsageError("target_or_folds")
        if options.budget and options.target is None:
            raise UsageError("budget_without_target")
        if options.target is not None:
            return _improved(options, words, console)
        if options.folds:
            return _folds(options, words, console)
        done = train(options.data, console=console, **words)
    if options.json:
        print(json.dumps({"run": str(done.path), **done.record()}, indent=1, ensure_ascii=False))
    else:
        print(done.path)
    return 0


def _alone(options: argparse.Namespace) -> None:
    """A run goes on as it was started: refuse what would be passed over."""
    usual = {"resume": options.resume, "json": options.json, "device": "auto", "track": ""}
    given = [name for name, value in vars(options).items() if value != usual.get(name)]
    if given:
        raise UsageError("resume_with_words", flags=", ".join(f"--{each.replace('_', '-')}" for each in given))


def _applied(options: argparse.Namespace, console: Terminal) -> Any:
    """DATA is a run, and the recipe its own with the fix of a finding; what else was said goes before both."""
    from fromzero.diagnosing import apply

    if options.data is None or options.plan or options.folds or options.target is not None:
        raise UsageError("apply_needs_run")
    words = {**_words.given(options, "model", "imgsz", "resize", "seq"), "track": options.track}
    if options.device != "auto":
        words["device"] = options.device
    return apply(Path(options.data), options.apply, output=options.output, console=console, **words)


def _folds(options: argparse.Namespace, words: dict[str, Any], console: Terminal) -> int:
    from fromzero.crossing import cross_validate, summary
    from fromzero.records import to_json
    from fromzero.runs import next_free

    output = words.pop("output") or next_free(f"{Path(options.data).resolve().name}-folds")
    made = cross_validate(options.data, options.folds, output=output, console=console, **words)
    print(json.dumps(to_json(made), indent=1, ensure_ascii=False) if options.json else summary(made))
    return 0


def _improved(options: argparse.Namespace, words: dict[str, Any], console: Terminal) -> int:
    from fromzero.improving import improve, summary
    from fromzero.records import to_json
    from fromzero.runs import next_free

    output = words.pop("output") or next_free(f"{Path(options.data).resolve().name}-target")
    words |= _words.given(options, "budget")
    made = improve(options.data, options.target, output=output, console=console, **words)
    print(json.dumps(to_json(made), indent=1, ensure_ascii=False) if options.json else summary(made))
    return 0 if made.reached else 1


def _from_plan(path: Path | None) -> dict[str, object]:
    """The words a plan file stands for: a plan is a config."""
    if path is None:
        return {}
    from fromzero.records import plan_from_json
    from fromzero.starting import words_of

    try:
        plan = plan_from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError("plan_file_not_read", path=path, reason=error.strerror or error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = say("plan.missing_field", name=error.args[0]) if isinstance(error, KeyError) else error
        raise UsageError("bad_plan_file", path=path, reason=reason) from error
    return words_of(plan)
