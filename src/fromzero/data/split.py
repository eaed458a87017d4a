"""Train, validation and test: stratified, repeatable, and no picture in two of them.

A picture's place is decided by a hash of its content and the seed, so that pictures added later hardly move the others
and copies of one picture always stay together. Splits that the folder names are kept; what is missing is made.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from fromzero.data.manifest import Manifest
from fromzero.errors import DataError, UsageError

NOWHERE = "none"  # a copy of an official test picture: it must not train, and must not be counted twice


def split(manifest: Manifest, shares: tuple[float, float, float] | None = None, seed: int | None = None) -> Manifest:
    """The manifest with its `split` column filled, by default with the shares and seed of its last split.

    Within one sample of the share in every class, unless copies of a picture must stay together. An official test set
    is never touched; a copy of its pictures is in no split."""
    shares, seed = shares or manifest.shares, manifest.seed if seed is None else seed
    if not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6 and shares[0] > 0):  # written so that NaN fails
        raise UsageError("bad_shares", shares="/".join(f"{each:g}" for each in shares))
    given = manifest["given"]
    if not np.isin(given, ("val", "test")).any():  # a folder that only calls itself train has everything to give
        given = np.full_like(given, "")
    assigned = np.array(given, dtype="U5")
    if not (given != "").any():
        _assign(manifest, assigned, {"test": shares[2], "val": shares[1] / max(1e-9, 1 - shares[2])}, seed)
    elif not (given == "val").any():
        _assign(manifest, assigned, {"val": shares[1] / (shares[0] + shares[1])}, seed)
    _keep_copies_together(manifest, assigned)
    if (given == "test").any():
        assigned[(assigned == "test") & (given != "test")] = NOWHERE
    for name in ("train", "val"):
        if not ((assigned == name) & (manifest["problem"] == "")).any():
            raise DataError("empty_split", split=name, images=len(manifest.good()))
    return dataclasses.replace(manifest.with_column("split", assigned), shares=shares, seed=seed)


def _assign(manifest: Manifest, assigned: np.ndarray, parts: dict[str, float], seed: int) -> None:
    """Give each part, in turn, its share of what no part has yet: class by class, in the order of the hash."""
    order = np.array([_place(str(each), seed) for each in manifest["hash"]])
    assigned[(assigned == "") & (manifest["problem"] != "")] = "train"  # unusable rows are nobody's, but not missing
    for part, share in parts.items():
        for label in range(len(manifest.classes)):
            free = (assigned == "") | (assigned == "train") if part == "val" and "test" not in parts else assigned == ""
            rows = np.flatnonzero(free & (manifest["label"] == label) & (manifest["problem"] == ""))
            rows = rows[np.argsort(order[rows], kind="stable")]
            assigned[rows[: round(len(rows) * share)]] = part
    assigned[assigned == ""] = "train"


def _keep_copies_together(manifest: Manifest, assigned: np.ndarray) -> None:
    """All copies of a picture follow the one that is furthest from training."""
    rank = {"train": 0, "val": 1, "test": 2}
    furthest: dict[str, str] = {}
    for row in manifest.good():
        key, part = str(manifest["hash"][row]), str(assigned[row])
        if rank[part] >= rank[furthest.get(key, "train")]:
            furthest[key] = part
    for row in manifest.good():
        assigned[row] = furthest[str(manifest["hash"][row])]


def _place(content: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{content}".encode(), digest_size=8).digest(), "big")
