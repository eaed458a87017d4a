"""Writing files so that a crash at any moment leaves either the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fromzero.errors import DiskError

STALE_SECONDS = 3600


def write_json(path: Path, value: Any) -> None:
    """`value` as JSON, beside and then renamed. Raises DiskError; the old file is then untouched."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, beside and then renamed."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """The same for bytes."""
    with replacing(path) as beside:
        beside.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to; it takes its place when the block ends well."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        sync(beside)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise disk_error(path, error) from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file is on the disk: a rename must not outrun what it renames."""
    with path.open("r+b") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())


def only(path: Path, pattern: str) -> None:
    """Remove the files beside `path` that match `pattern`, but for itself and for what another process may be writing:
    a `.tmp` that nobody touched for an hour was left by a crash."""
    for old in path.parent.glob(pattern):
        with contextlib.suppress(OSError):  # another process may have been faster; Windows keeps what is mapped
            left = old.suffix == ".tmp" and time.time() - old.stat().st_mtime > STALE_SECONDS
            if old != path and (left or old.suffix != ".tmp"):
                old.unlink()


def reserve(path: Path) -> None:
    """Take the disk's room for all of a file that will be written through a map: there, a full disk would kill the
    process. Raises DiskError and removes the file."""
    if not hasattr(os, "posix_fallocate"):  # elsewhere files are not sparse unless one asks for it
        return
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> DiskError:
    """What went wrong with writing `path`, with the space that is left."""
    existing = next(each for each in (path, *path.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    reason = error.strerror or str(error)
    return DiskError("disk", path=path, reason=reason, free=f"{free / 2**30:.2f} GiB")
