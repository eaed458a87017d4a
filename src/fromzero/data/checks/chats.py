"""What is wrong with a set of chats."""

from __future__ import annotations

from typing import Any

import numpy as np

from fromzero.data.checks import copies
from fromzero.data.checks.lengths import over_long
from fromzero.data.manifest import Manifest
from fromzero.data.rows.content import content
from fromzero.terminal import Console


def findings(
    manifest: Manifest, console: Console | None = None, *, tokenizer: str | None = None, limit: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """By kind. The length of a chat is that of all its turns."""
    found = copies.findings(manifest)
    found |= {"empty": [], "empty_turns": [], "role_order": [], "over_long": []}
    found["empty"] = [each for each in found["corrupt"] if each["code"] == "chat_empty"]
    found["corrupt"] = [each for each in found["corrupt"] if each["code"] != "chat_empty"]
    import pyarrow
    import pyarrow.compute as compute

    row = 0
    for chunk in content(manifest).column("turns").chunks:
        turns = chunk.flatten()
        speakers, said = turns.field("role").to_pylist(), turns.field("text")
        blank = compute.equal(compute.utf8_trim_whitespace(said), "").to_numpy(zero_copy_only=False)
        ends = np.concatenate([[0], np.cumsum(compute.list_value_length(chunk).to_numpy())])
        whole = compute.binary_join(pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), said), "\n")
        for place, (start, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
            name = manifest.name(row + place)
            if end > start and blank[start:end].any():
                empty = (np.flatnonzero(blank[start:end]) + 1).tolist()
                found["empty_turns"].append({"file": name, "turns": empty})
            wrong = _wrong_turn(speakers[start:end])
            if wrong:
                found["role_order"].append({"file": name, "turn": wrong, "roles": speakers[start:end][:8]})
        rows = np.arange(len(whole))
        for each, tokens, most, estimated in over_long(pyarrow.chunked_array([whole]), rows, tokenizer, limit):
            entry = {"file": manifest.name(row + each), "tokens": tokens, "limit": most, "estimated": estimated}
            found["over_long"].append(entry)
        row += len(chunk)
    return found


def _wrong_turn(speakers: list[str]) -> int:
    """The first turn (from 1) whose speaker is not expected there; 0 if all are. After a system's word user and
    assistant take turns, tools speak after the assistant, and the assistant has the last word."""
    expected: tuple[str, ...] = ("system", "user")
    follows = {
        "system": ("user",),
        "user": ("assistant",),
        "assistant": ("user", "tool"),
        "tool": ("tool", "assistant"),
    }
    for number, who in enumerate(speakers, 1):
        if who not in expected:
            return number
        expected = follows[who]
    return len(speakers) if speakers and speakers[-1] != "assistant" else 0
