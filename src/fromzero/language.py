"""Every sentence a person reads, in English and Chinese, from one catalogue: the files of `messages/`.

A key names a sentence, `say` fills it in. English and Chinese stand side by side in one row, so that neither is
forgotten; a file holds the rows of one area. `use` switches the language of the process; without it the locale decides.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path

LANGUAGES = ("en", "zh")
_chosen: str | None = None


def use(language: str | None) -> None:
    """Speak `language` ("en" or "zh") from now on; None goes back to the locale."""
    global _chosen
    assert language is None or language in LANGUAGES
    _chosen = language


def current() -> str:
    """The language in use: the chosen one, else the locale's if it is Chinese, else English."""
    if _chosen:
        return _chosen
    for name in ("FROMZERO_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "")
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return _windows_language() if os.name == "nt" else "en"


def _windows_language() -> str:
    import locale  # Windows sets no LANG; its user locale is the only hint

    return "zh" if (locale.getlocale()[0] or "").lower().startswith(("zh", "chinese")) else "en"


def say(key: str, /, **values: object) -> str:
    """The sentence named `key` in the current language with `values` filled in."""
    row = catalogue().get(key)
    assert row is not None, f"messages/ has no row {key!r}"
    return row[LANGUAGES.index(current())].format(**values)


@functools.cache
def catalogue() -> Mapping[str, tuple[str, str]]:
    """All rows of the catalogue: key -> (English, Chinese), in the order of the files and their rows."""
    rows: dict[str, tuple[str, str]] = {}
    for path in sorted(Path(__file__).with_name("messages").glob("*.json")):
        for key, (english, chinese) in json.loads(path.read_text(encoding="utf-8")).items():
            assert key not in rows, f"{path.name} repeats {key!r}"
            rows[key] = (english, chinese)
    return rows
