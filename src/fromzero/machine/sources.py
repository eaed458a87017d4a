"""Where the wheels of a choice can be had from here: mirrors, PyTorch's own host, pip's default index, in that order.

Each place is asked before it is used. A mirror may be laid out like PyTorch's host (ROOT/cu126/torch/), be a flat page
of wheels (ROOT/cu126/) or a folder on disk.
"""

from __future__ import annotations

import html
import os
import platform
import re
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fromzero.errors import SourceError
from fromzero.facts import wheels as table
from fromzero.facts.wheels import version
from fromzero.language import say
from fromzero.machine.install import Choice
from fromzero.machine.privacy import private

TIMEOUT = 10.0
DEFAULT = "pip"  # the name of pip's default index, whatever its configuration makes of it
PAGE_LIMIT = 32 << 20  # a page that lists wheels is smaller; nobody's endless answer fills the memory


@dataclass(frozen=True)
class Source:
    """A place that has the wheels: `requirements` and `arguments` are what pip is called with. `exact` says that it is
    the very variant of the choice; pip's default index may give a larger one."""

    name: str
    requirements: tuple[str, ...]
    arguments: tuple[str, ...]
    local: bool = False
    exact: bool = True


def find_source(choice: Choice, mirrors: Sequence[str] = (), default: bool = True) -> tuple[Source, tuple[str, ...]]:
    """The first place that has the wheels of `choice` for this Python, and what was wrong with those before it.
    `default` allows pip's default index where it gives the chosen variant. Raises SourceError with all attempts."""
    attempts: list[str] = []
    for root in _roots(mirrors):
        found = _ask(root, choice)
        if isinstance(found, Source):
            return found, tuple(attempts)
        attempts.append(found)
    if default and is_default(choice):
        larger = choice.cuda_tag == "cpu" and sys.platform.startswith("linux")
        return Source(DEFAULT, _loose(choice), (), exact=not larger), tuple(attempts)
    raise SourceError("no_wheel_source", attempts, torch=choice.torch, tag=choice.cuda_tag)


def is_default(choice: Choice) -> bool:
    """Whether pip's default index has this variant, or one that contains it: the CPU's is in every Linux wheel."""
    if choice.cuda_tag == "cpu":
        return True
    wheel = table.find_wheel(choice.torch, choice.cuda_tag)
    return sys.platform.startswith("linux") and wheel is not None and wheel.pypi_linux


def _roots(mirrors: Sequence[str]) -> Iterator[str]:
    seen = set()
    for root in (*mirrors, *os.environ.get("FROMZERO_WHEEL_INDEX", "").split(), table.WHEEL_HOST):
        if root.rstrip("/") not in seen:
            seen.add(root.rstrip("/"))
            yield root.rstrip("/")


def _loose(choice: Choice) -> tuple[str, ...]:
    exact = choice.torch if choice.torch.count(".") > 1 else f"{choice.torch}.*"
    numpy = ("numpy<2",) if version(choice.torch) < version(table.NUMPY2_SINCE) else ()
    return (f"torch=={exact}", f"torchvision=={choice.torchvision}.*", *numpy)


# --- asking one place -----------------------------------------------------------------------------------------------


def _ask(root: str, choice: Choice) -> Source | str:
    """The place as a source, or why it is none."""
    tag = choice.cuda_tag
    base = root.removesuffix(f"/{tag}")
    folder = _folder(base)
    problem = say("sources.empty")
    places = [f"{base}/{tag}", base]
    for place in places:
        try:
            indexed = {name: _links(f"{place}/{name}/", folder) for name in ("torch", "torchvision")}
        except OSError as error:
            problem = _why(error)
            if _host_is_gone(error):
                break
        else:
            if chosen := _pick(indexed, choice, tagged=place != base):
                return _as_index(place, choice, chosen, folder)
            problem = say("sources.none", torch=choice.torch)
        try:
            links = _links(f"{place}/", folder)
        except OSError as error:
            problem = _why(error)
            continue
        if chosen := _pick({"torch": links, "torchvision": links}, choice, tagged=place != base):
            return _as_files(place, choice, chosen, folder)
        if links:
            problem = say("sources.none", torch=choice.torch)
    return f"{private(root)}: {problem}"


def _as_index(place: str, choice: Choice, chosen: dict[str, tuple[str, str]], folder: Path | None) -> Source:
    """PyTorch's own host has the dependencies too; a mirror is asked for these two and pip's index for the rest."""
    url = Path(place).resolve().as_uri() if folder is not None and "://" not in place else place
    requirements = tuple(f"{name}=={number}" for name, (number, _) in chosen.items())
    flag = "--index-url" if place.startswith(table.WHEEL_HOST) else "--extra-index-url"
    return Source(private(place), (*requirements, *_loose(choice)[2:]), (flag, url), local=folder is not None)


def _as_files(place: str, choice: Choice, chosen: dict[str, tuple[str, str]], folder: Path | None) -> Source:
    """The very files, named: pip takes nothing else for them. Other packages beside them may serve as dependencies."""
    files = tuple(link for _, link in chosen.values())
    return Source(private(place), (*files, *_loose(choice)[2:]), ("--find-links", f"{place}/"), folder is not None)


def _folder(root: str) -> Path | None:
    """The folder a root names, if it is one on disk."""
    if root.startswith("file://"):
        return Path(urllib.request.url2pathname(urllib.parse.urlparse(root).path))
    return None if "://" in root else Path(root)


def _links(page: str, folder: Path | None) -> list[str]:
    """What a page (or folder) of wheels links to, as full addresses. Raises OSError if there is no such page."""
    if folder is not None:
        path = _folder(page)
        assert path is not None
        if (index := path / "index.html").is_file():
            return _hrefs(index.read_text(encoding="utf-8", errors="replace"), index.resolve().as_uri())
        return [str(each.resolve()) for each in sorted(path.iterdir()) if each.suffix == ".whl"]
    request = urllib.request.Request(page, headers={"User-Agent": "fromzero", "Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=TIMEOUT, context=_certificates()) as answer:
        return _hrefs(answer.read(PAGE_LIMIT).decode("utf-8", errors="replace"), answer.url)


def _hrefs(page: str, base: str) -> list[str]:
    found = re.findall(r"""href\s*=\s*["']([^"']+\.whl[^"']*)["']""", page, re.IGNORECASE)
    return [urllib.parse.urljoin(base, html.unescape(each)) for each in found]


def _certificates() -> ssl.SSLContext:
    """The authorities that pip was told of, too: a company's proxy has its own."""
    context = ssl.create_default_context()
    for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        file = os.environ.get(name, "")
        if file and Path(file).is_file():
            context.load_verify_locations(file)
            break
    return context


def _host_is_gone(error: OSError) -> bool:
    return not isinstance(error, (urllib.error.HTTPError, FileNotFoundError, NotADirectoryError))


def _why(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    reason = getattr(error, "reason", None) or error.strerror or error
    return str(getattr(reason, "strerror", None) or reason)


# --- picking the files ----------------------------------------------------------------------------------------------

_WHEEL = re.compile(
    r"(?P<name>[\w.]+?)-(?P<version>\d[\w.+!]*)-(?P<python>[\w.]+)-(?P<abi>[\w.]+)-(?P<platform>[\w.]+)\.whl"
)


def _pick(pages: Mapping[str, Iterable[str]], choice: Choice, tagged: bool) -> dict[str, tuple[str, str]] | None:
    """Name -> (version, address) of the newest pair for this Python, or None if either is not there."""
    wanted = {"torch": choice.torch, "torchvision": choice.torchvision}
    chosen = {}
    for name, release in wanted.items():
        fitting = list(_fitting(name, release, pages[name], choice.cuda_tag, tagged))
        if not fitting:
            return None
        chosen[name] = max(fitting, key=lambda each: version(each[0]))
    return chosen


def _fitting(name: str, release: str, links: Iterable[str], tag: str, tagged: bool) -> Iterator[tuple[str, str]]:
    """Wheels of a release for this Python and system, of the variant `tag`; in a folder of that variant's own
    (`tagged`) they need not say so."""
    for link in links:
        file = urllib.parse.unquote(link.partition("#")[0].rsplit("/", 1)[-1].rsplit("\\", 1)[-1])
        found = _WHEEL.fullmatch(file)
        if found is None or found["name"] != name or not _is_for_this(found["python"], found["abi"], found["platform"]):
            continue
        number, _, local = found["version"].partition("+")
        if f"{number}.".startswith(f"{release}.") and (local == tag or (not local and tagged)):
            yield found["version"], link


def _is_for_this(python: str, abi: str, system: str) -> bool:
    own = f"cp{sys.version_info.major}{sys.version_info.minor}"
    free = "t" if "t" in getattr(sys, "abiflags", "") else ""
    if python != "py3" and not (python == own and abi == own + free):
        return False
    if system == "any":
        return True
    processor = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "win32":
        return system == "win_amd64"
    if sys.platform == "darwin":
        return system.startswith("macosx") and ("arm64" if processor == "aarch64" else "x86_64") in system
    return "linux" in system and system.endswith(processor)
