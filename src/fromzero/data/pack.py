"""Packing a folder of pictures into a few large shards, for slow disks and object storage.

The shards are WebDataset's (tar files of `000000012.jpg` and its class number in `000000012.cls`), which other loaders
read too. The manifest beside them knows where in which shard each picture lies, so any picture can still be read by
itself. Pictures lie in the shards in an order drawn by lot: whoever reads shard after shard meets them shuffled.

A packed set may lie behind any address that fsspec opens (s3://, https://, hdfs:// ...): `open_remote` fetches its
manifest into the user's cache, and each shard when it is first read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import threading
from pathlib import Path, PurePosixPath

import numpy as np

from fromzero.data.columns import Column, Texts
from fromzero.data.folder import looks_of
from fromzero.data.manifest import PACKED, STATE_FOLDER, Manifest, cache_folder, load, save, state_folder
from fromzero.errors import DataError, MissingPackage, UnreadableImage, UsageError
from fromzero.files import disk_error, replacing, reserve
from fromzero.language import say
from fromzero.terminal import Console

SHARD_BYTES = 256 << 20
SEED = 0
_FETCHING = threading.Lock()  # two workers that need one shard fetch it once


def pack(
    manifest: Manifest, to: Path | str, shard_bytes: int = SHARD_BYTES, console: Console | None = None
) -> Manifest:
    """Write the good pictures of `manifest` into shards of about `shard_bytes` in the folder `to`; returns the packed
    set. Splits and clusters are kept. Raises UsageError if `to` holds something already."""
    to, console = Path(to).resolve(), console or Console()
    if to.exists() and any(to.iterdir()):
        raise UsageError("pack_not_empty", path=to)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{to.name}.", suffix=".partial", dir=to.parent))
    except OSError as error:
        raise disk_error(to, error) from error
    try:
        (beside / STATE_FOLDER).mkdir(parents=True)
        (beside / STATE_FOLDER / PACKED).touch()  # from now on its state lies in it
        rows = manifest.good()
        rows = rows[np.random.default_rng(SEED).permutation(len(rows))]
        names, offsets = _write(manifest, rows, beside, shard_bytes, console)
        columns: dict[str, Column] = {name: column[rows] for name, column in manifest.columns.items()}
        named = "name" if "name" in manifest.columns else "path"
        columns |= {"path": Texts.of(names), "offset": offsets, "name": manifest[named][rows]}
        about = {"packed": True, "looks": manifest.about["looks"]}
        packed = dataclasses.replace(manifest, root=beside, columns=columns, about=about)
        _keep_beside(manifest, rows, state_folder(beside))
        save(packed)
        if to.exists():
            to.rmdir()
        beside.rename(to)
    except OSError as error:
        raise disk_error(to, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    found = load(to)
    assert found is not None
    return found


def _write(
    manifest: Manifest, rows: np.ndarray, folder: Path, shard_bytes: int, console: Console
) -> tuple[list[str], np.ndarray]:
    """Shards of `rows` in their order; the shard and the offset of each."""
    names, offsets = [], np.zeros(len(rows), np.int64)
    place, number = 0, 0
    with console.progress(say("data.packing"), len(rows)) as advance:
        while place < len(rows):
            name, number = f"shard-{number:05d}.tar", number + 1
            with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as shard:
                while place < len(rows) and shard.offset < shard_bytes:
                    row = int(rows[place])
                    suffix = PurePosixPath(manifest.name(row)).suffix.lower()
                    offsets[place] = shard.offset + tarfile.BLOCKSIZE
                    _add(shard, f"{place:09d}{suffix}", read(manifest, row))
                    _add(shard, f"{place:09d}.cls", str(int(manifest["label"][row])).encode())
                    names.append(name)
                    place += 1
                    advance()
    return names, offsets


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def _keep_beside(manifest: Manifest, rows: np.ndarray, folder: Path) -> None:
    """The looks in the shards' order."""
    looks = looks_of(manifest)
    target = np.lib.format.open_memmap(folder / manifest.about["looks"], "w+", looks.dtype, (len(rows), looks.shape[1]))
    reserve(folder / manifest.about["looks"])
    for places in np.array_split(np.arange(len(rows)), len(rows) // 4096 + 1):
        target[places] = looks[rows[places]]
    target.flush()


def shards_of(manifest: Manifest) -> np.ndarray:
    """The number of the shard that each row lies in."""
    return manifest["path"].array.dictionary_encode().indices.to_numpy()


# --- reading --------------------------------------------------------------------------------------------------------


def read(manifest: Manifest, row: int) -> bytes:
    """The bytes of a sample's file, or of its part of a shard. Raises UnreadableImage."""
    path, offset = manifest["path"][row], int(manifest["offset"][row])
    try:
        if offset < 0:
            return (manifest.folder / path).read_bytes()
        if "remote" in manifest.about and not (manifest.root / path).exists():
            fetch(manifest.about["remote"], path, manifest.root)
        with (manifest.root / path).open("rb") as file:
            file.seek(offset)
            return file.read(int(manifest["bytes"][row]))
    except OSError as error:
        raise UnreadableImage("image_not_read", name=path, reason=error.strerror or str(error)) from error


def unchanged(manifest: Manifest, row: int) -> bool:
    """Whether a picture's file is as old and as large as the scan saw it; shards are not looked at."""
    if manifest["offset"][row] >= 0:
        return True
    try:
        status = (manifest.folder / manifest["path"][row]).stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (manifest["bytes"][row], manifest["modified"][row])


def open_remote(address: str) -> Manifest:
    """The packed set at an address that fsspec opens; what is fetched stays in the user's cache. Raises DataError."""
    key = hashlib.blake2b(address.encode(), digest_size=8).hexdigest()
    first = cache_folder() / "remote" / key
    fetch(address, f"{STATE_FOLDER}/manifest.json", first, again=True)
    try:
        rows = str(json.loads((first / STATE_FOLDER / "manifest.json").read_text(encoding="utf-8"))["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("not_packed", address=address) from error
    if PurePosixPath(rows).name != rows or rows.startswith("."):  # the remote must not say where to write
        raise DataError("not_packed", address=address)
    root = first / rows  # another packing at the same address has other shards under the same names
    for name in (PACKED, "manifest.json", rows):
        fetch(address, f"{STATE_FOLDER}/{name}", root)
    found = load(root)
    if found is None:
        raise DataError("not_packed", address=address)
    fetch(address, f"{STATE_FOLDER}/{found.about['looks']}", root)
    return dataclasses.replace(found, about={**found.about, "remote": address})


def fetch(address: str, name: str, root: Path, again: bool = False) -> None:
    """One file of a remote set into the folder `root`, whole or not at all."""
    try:
        import fsspec
    except ImportError as error:
        raise MissingPackage("fsspec", "train") from error
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DataError("not_packed", address=address)
    with _FETCHING:
        if (root / path).exists() and not again:
            return
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(root / path) as beside, beside.open("wb") as here:
            try:
                with fsspec.open(f"{address.rstrip('/')}/{name}", "rb") as there:
                    shutil.copyfileobj(there, here, 1 << 20)
            except (OSError, ValueError, ImportError) as error:
                raise DataError("remote_not_read", address=address, name=name, reason=str(error)) from error
