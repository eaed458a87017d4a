"""Dialogues in alpaca or sharegpt form as a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fromzero.data.manifest import Manifest
from fromzero.data.rows.passing import PROBLEMS, Seen, computing, hashes, made, normalised, places, stored
from fromzero.data.rows.reading import EXCERPT, Rows, chat_keys
from fromzero.data.rows.roles import NAMES
from fromzero.errors import DataError
from fromzero.language import say
from fromzero.terminal import Console

SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_call", "tool_call", "tool_response"), "tool"),
}


def of_chats(rows: Rows, source: dict[str, Any], console: Console) -> Manifest:
    pyarrow = computing()
    form = chat_keys(rows.columns)
    turns_of: Callable[[dict[str, Any]], list[tuple[str, str]]] = _sharegpt if form == "sharegpt" else _alpaca
    turn = pyarrow.struct([("role", pyarrow.string()), ("text", pyarrow.string())])
    roles = {"turns": "turns"}
    for role in ("split", "group", "time"):
        for each in rows.columns:
            if each.strip().casefold() in NAMES[role]:
                roles.setdefault(role, each)
    extra = [roles[role] for role in ("split", "group", "time") if role in roles]
    seen = Seen()

    def passing() -> Iterator[Any]:
        for some in rows.objects():
            chats, problems = [], []
            for line, each in some:
                try:
                    chat = turns_of(each)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise DataError("chat_form", path=rows.path, line=line, form=form, reason=_reason(error)) from error
                answered = any(who == "assistant" and said.strip() for who, said in chat)
                problems.append("chat_empty" if not chat else "" if answered else "chat_no_answer")
                chats.append(chat)
            flat = ["\x1e".join(f"{who}\x1f{said}" for who, said in chat) for chat in chats]
            seen.hashes.append(hashes(normalised(pyarrow.array(flat, pyarrow.string()))))
            seen.sizes.append(np.array([sum(len(said.encode()) for _, said in chat) for chat in chats]))
            seen.problems.append(np.array([PROBLEMS.index(each) for each in problems]))
            seen.labels.append(np.full(len(some), -1, np.int32))
            listed = [[{"role": who, "text": said} for who, said in chat] for chat in chats]
            cells = {"turns": pyarrow.array(listed, pyarrow.list_(turn))}
            cells |= {name: pyarrow.array([_word(each.get(name)) for _, each in some]) for name in extra}
            batch = pyarrow.RecordBatch.from_pydict(cells)
            seen.given.append(places(seen, rows, batch, roles))
            seen.count += len(some)
            yield batch

    name = stored(rows.path, source, passing(), console, rows.path.stat().st_size)
    about = {"source": source, "rows": name, "roles": roles, "form": form}
    return made(
        rows.path, "chats", seen, (), np.full(seen.count, -1), np.concatenate(seen.problems), about
    )  # fmt: skip


def _alpaca(each: dict[str, Any]) -> list[tuple[str, str]]:
    """{instruction, input, output, and perhaps system and history} as turns."""
    turns = [("system", _said(each["system"]))] if each.get("system") else []
    for question, answer in each.get("history") or []:
        turns += [("user", _said(question)), ("assistant", _said(answer))]
    asked = "\n".join(filter(None, (_said(each["instruction"]), _said(each.get("input")))))
    turns += [("user", asked), ("assistant", _said(each["output"]))]
    return turns if any(said.strip() for _, said in turns) else []


def _sharegpt(each: dict[str, Any]) -> list[tuple[str, str]]:
    """{conversations: [{from, value}]} or {messages: [{role, content}]} as turns."""
    found = each["conversations"] if each.get("conversations") is not None else each["messages"]
    if isinstance(found, str):
        found = json.loads(found)
    turns = [("system", _said(each["system"]))] if each.get("system") else []
    for turn in found:
        who = turn["from"] if turn.get("from") is not None else turn["role"]
        said = turn["value"] if turn.get("value") is not None else turn.get("content")
        if said is None and turn.get("tool_calls"):
            said = json.dumps(turn["tool_calls"], ensure_ascii=False)
        turns.append((SPEAKERS.get(str(who).strip().lower(), str(who)), _said(said)))
    return turns


def _said(value: Any) -> str:
    """A turn's text; of a list of parts, those that are text."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(part if isinstance(part, str) else str(part.get("text", "")) for part in value)
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40}")
    return value


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def _reason(error: Exception) -> str:
    """What is missing or wrong in an object, for a person."""
    return say("chat.no_key", key=error.args[0]) if isinstance(error, KeyError) else str(error)[:EXCERPT]
