"""fromzero doctor: what is wrong with this machine, or with an error log."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path

from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.machine.detect import system
from fromzero.machine.doctor import Facts, Finding, as_text, examine, explain, look, safe_fixes


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log", metavar="FILE", help=say("flag.doctor.log"))
    parser.add_argument("--fix", action="store_true", help=say("flag.doctor.fix"))
    parser.add_argument("--yes", action="store_true", help=say("flag.doctor.yes"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    if options.log is not None and options.fix:
        raise UsageError("fix_is_here")
    return _of_log(options) if options.log is not None else _of_machine(options)


def _of_machine(options: argparse.Namespace) -> int:
    facts = look()
    findings = examine(facts)
    applied: dict[str, int] = {}
    shown = options.fix and not options.json
    if options.fix and findings:
        if shown:
            _print(findings)
        applied = _fix(findings, options.yes)
        if applied:
            facts = look()
            findings = examine(facts)
            print(say("doctor.again"), file=sys.stderr)
    if options.json:
        fixed = {"applied": applied} if options.fix else {}
        _print_json({"findings": [vars(each) for each in findings], "machine": as_text(facts), **fixed})
    else:
        if not shown or applied or not findings:
            _print(findings or say("doctor.healthy"))
        print(_summary(facts))
    return 1 if findings else 0


def _fix(findings: list[Finding], yes: bool) -> dict[str, int]:
    """Show the safe commands, ask, run them; code -> exit status of what was run. All of it on standard error."""
    import shlex
    import subprocess

    from fromzero.machine.privacy import private

    commands = safe_fixes(findings, sys.prefix, sys.base_prefix, sys.executable)
    if not commands:
        print(say("doctor.nothing_safe"), file=sys.stderr)
        return {}
    print(say("doctor.applying"), file=sys.stderr)
    for command in _distinct(commands):
        print("  " + private(shlex.join(command)), file=sys.stderr)
    if not yes:
        print(say("doctor.ask"), end="", file=sys.stderr, flush=True)
        if not sys.stdin.isatty() or sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            print("\n" + say("doctor.not_applied"), file=sys.stderr)
            return {}
    statuses = {tuple(command): subprocess.run(command, stdout=2).returncode for command in _distinct(commands)}
    applied = {code: statuses[tuple(command)] for code, command in commands.items()}
    for code, status in applied.items():
        words = {"code": code, "status": status}
        print(say("doctor.not_fixed", **words) if status else say("doctor.fixed", **words), file=sys.stderr)
    return applied


def _distinct(commands: dict[str, list[str]]) -> list[list[str]]:
    """Several faults may have one fix."""
    return [list(each) for each in dict.fromkeys(map(tuple, commands.values()))]


def _of_log(options: argparse.Namespace) -> int:
    findings = explain(_read(options.log), wsl=system() == "wsl", facts=functools.cache(look))
    unknown = any(each.code == "unknown" for each in findings)
    if options.json:
        _print_json({"findings": [vars(each) for each in findings]})
    else:
        _print(findings or say("doctor.log_clean"))
        if unknown:
            print(_summary(look()))
    return 1 if unknown else 0


def _read(path: str) -> str:
    """The log as text; consoles and log collectors leave every encoding behind, UTF-16 of PowerShell included."""
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError("log_not_read", path=path, reason=error.strerror or error) from error
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    return content.decode("utf-16" if wide else "utf-8", errors="replace")


def _print_json(answer: dict[str, object]) -> None:
    print(json.dumps(answer, ensure_ascii=False, indent=2))


def _print(findings: list[Finding] | str) -> None:
    """The findings, or the sentence that says why there are none."""
    if isinstance(findings, str):
        print(findings)
        return
    for finding in findings:
        print(f"{finding.code}: {finding.cause}")
        print(f"  {say('doctor.evidence')} {finding.evidence}")
        print(f"  {say('doctor.fix')} {finding.fix}\n")


def _summary(facts: Facts) -> str:
    lines = [say("doctor.machine")]
    for name, value in as_text(facts).items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        elif isinstance(value, list):
            value = "; ".join(value) or say("doctor.no_gpu")
        if value not in ("", None):
            lines.append(f"  {name:<10} {value}")
    return "\n".join(lines)
