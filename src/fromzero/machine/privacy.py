"""Reports are pasted into public places: no user names, home folders, access tokens or passwords in them."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

# Names that say nothing of a person.
_NOBODY = {"root", "user", "users", "home", "admin", "administrator", "ubuntu", "debian", "docker", "runner", "nobody"}

_HOME = re.compile(r"((?:/home/|/Users/|[A-Za-z]:[\\/]+Users[\\/]+))[^/\\\s\"':]+")
_TOKEN = re.compile(
    r"\b(?:hf_|ghp_|gho_|ghs_|github_pat_|glpat-|sk-|pk-|xox[abp]-|pypi-|nvapi-|AKIA|ya29\.|eyJ)[\w.-]{8,}"
)
_NAMED = re.compile(
    r"(?i)((?:[\w-]*(?:token|secret|passwor[dt]|passwd|api[_-]?key|access[_-]?key)[\w-]*[\"']?\s*(?:=(?!=)|:)\s*|"
    r"(?:bearer|basic)\s+)[\"']?)(?!\s)[^\s\"',;&]{4,}"
)
_IN_ADDRESS = re.compile(r"(\w+://)[^/\s@:]+(?::[^/\s@]*)?@")
_MAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_PROMPT = re.compile(r"\b[a-z_][\w-]*@[\w.-]+(?=:[~/])")


def private(text: str) -> str:
    """`text` with people and secrets taken out."""
    text = _IN_ADDRESS.sub(r"\1", text)
    text = _TOKEN.sub("(secret)", text)
    text = _NAMED.sub(r"\1(secret)", text)
    text = _HOME.sub(r"\1user", text)
    text = _MAIL.sub("(mail)", text)
    text = _PROMPT.sub("user@host", text)
    home, names = _self()
    if home:
        text = text.replace(home, "~")
    for name in names:
        text = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", "user", text)
    return text


@functools.cache
def _self() -> tuple[str, tuple[str, ...]]:
    """This user's home folder and names, as far as they tell of a person."""
    try:
        home = str(Path.home())
    except RuntimeError:
        home = ""
    names = {os.environ.get(each, "") for each in ("USER", "LOGNAME", "USERNAME")} | {Path(home).name if home else ""}
    known = tuple(sorted(each for each in names if len(each) > 2 and each.casefold() not in _NOBODY))
    return (home if len(home) > len("/root") else ""), known
