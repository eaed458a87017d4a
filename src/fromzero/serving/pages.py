"""The HTML pages: texts filled in from the catalogue, what they ask a visitor for, and a content security policy that
allows nothing but the page's own style and script."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero.language import LANGUAGES, catalogue
from fromzero.records import Columns, Preprocessing

COMMON_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True)
class Page:
    """One page in every language, with the policy that fits its style and script."""

    texts: Mapping[str, str]
    policy: str


def asked_for(how: Any) -> dict[str, Any]:
    """What the upload page asks for, by the record that says how a sample becomes an input: of a picture the part that
    the model sees, of a row its columns with the words that training saw. Sequences of rows are given as JSON."""
    if isinstance(how, Preprocessing):
        return {"size": how.size, "crop": how.crop, "resize": how.resize}
    if isinstance(how, Columns) and not how.window:
        numbers = [{"name": name} for name, *_ in how.numbers]
        return {"columns": [*numbers, *({"name": name, "words": list(words)} for name, words in how.words)]}
    return {}


def page(name: str, **facts: object) -> Page:
    """`name`.html with `{{key}}` replaced by the catalogue's sentence, filled with `facts`; its script finds the facts
    and the sentences in both languages in the JSON at `{{data}}`. With a fact `task`, a row `key.<task>` goes before
    the row `key`."""
    source = Path(__file__).with_name(f"{name}.html").read_text(encoding="utf-8")
    texts = {language: _fill(source, language, facts) for language in LANGUAGES}
    return Page(texts, _policy(source))


def _fill(source: str, language: str, facts: Mapping[str, object]) -> str:
    rows = catalogue()
    column = LANGUAGES.index(language)
    words = {key: row for key, row in rows.items() if key.startswith("page.")}
    data = json.dumps({"language": language, "words": words, "facts": facts}, ensure_ascii=False)
    # Inside <script>, "</script>" and "<!--" would end the data: a label is free to contain them.
    values = {"data": data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")}
    values["language"] = "zh-CN" if language == "zh" else "en"

    def replace(found: re.Match[str]) -> str:
        key = found[1]
        if key in values:
            return values[key]
        row = rows.get(f"{key}.{facts.get('task')}", rows[key])
        return html.escape(row[column].format(**facts))

    return re.sub(r"\{\{([a-z_.]+)\}\}", replace, source)


def _policy(source: str) -> str:
    def hashes(tag: str) -> str:
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in inline)
        return " ".join(f"'sha256-{each}'" for each in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
