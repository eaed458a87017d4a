"""Who may ask, from where and how often: API keys, the origins of other sites, requests a second."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fromzero.errors import UsageError

if TYPE_CHECKING:  # the command reads its flags with this file before a worker loads the rest
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

CLIENTS = 10_000  # whose rate is remembered; of more, the longest silent are forgotten
KEYS_VARIABLE = "FROMZERO_API_KEYS"


@dataclass(frozen=True)
class Rate:
    """At most `count` requests in `seconds` from one client; as many may come at once."""

    count: float
    seconds: float


def rate(word: str) -> Rate:
    """ "10/s", "300/m", "1000/h" -> Rate. Raises UsageError."""
    count, slash, unit = word.partition("/")
    lengths = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        if not slash or unit not in lengths or not 0 < float(count) < float("inf"):
            raise ValueError(word)
        return Rate(float(count), lengths[unit])
    except ValueError:
        raise UsageError("rate_invalid", rate=word) from None


class Limiter:
    """A bucket of tokens for each client, filled at the rate."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens, when

    def take(self, client: str) -> float:
        """0 if the client may ask now, else in how many seconds."""
        now = time.monotonic()
        most, fill = max(1.0, self.rate.count), self.rate.count / self.rate.seconds
        tokens, then = self._buckets.pop(client, (most, now))
        tokens = min(most, tokens + (now - then) * fill)
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if tokens >= 1 else (1 - tokens) / fill


def keys(given: list[str], file: Path | None, environment: Mapping[str, str]) -> tuple[bytes, ...]:
    """The keys of the flags, of a file with one a line, and of FROMZERO_API_KEYS, separated by commas. Raises
    UsageError for a file that cannot be read or keeps no key: a server meant to be closed must not be open."""
    found = [*given, *environment.get(KEYS_VARIABLE, "").split(",")]
    if file is not None:
        try:
            lines = [each.strip() for each in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("keys_unreadable", path=file, reason=error) from error
        lines = [each for each in lines if each and not each.startswith("#")]
        if not lines:
            raise UsageError("keys_unreadable", path=file, reason="0")
        found += lines
    return tuple(dict.fromkeys(each.strip().encode() for each in found if each.strip()))


def presented(headers: Mapping[bytes, bytes]) -> bytes:
    """The key that a request carries, as `X-API-Key` or `Authorization: Bearer`; b"" if none."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return headers.get(b"x-api-key", b"") or (token.strip() if scheme.lower() == b"bearer" else b"")


def valid(key: bytes, known: tuple[bytes, ...]) -> bool:
    """Whether it is one of them; takes as long whichever it is, so that nobody can guess a key by its letters."""
    matches = [hmac.compare_digest(key, each) for each in known]
    return any(matches)


class Refuse(Protocol):
    """Makes the answer to a request without a key (None), or to one that came so many seconds too soon."""

    def __call__(self, request: Request, seconds: float | None) -> Response: ...


class Guard:
    """Lets only those with a key, and only as often as the limiter says, to whatever costs work or tells about the
    models. Pages, health and metrics stay open."""

    def __init__(self, app: ASGIApp, keys: tuple[bytes, ...], limiter: Limiter | None, refuse: Refuse) -> None:
        self.app, self.keys, self.limiter, self.refuse = app, keys, limiter, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request

        if scope["type"] == "http" and (self.keys or self.limiter) and _guarded(scope["path"]):
            key = presented(dict(scope["headers"]))
            if self.keys and not valid(key, self.keys):
                await self.refuse(Request(scope), None)(scope, receive, send)
                return
            client = key.decode("latin-1") if self.keys else (scope.get("client") or ("",))[0]
            seconds = self.limiter.take(client) if self.limiter else 0.0
            if seconds:
                await self.refuse(Request(scope), seconds)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _guarded(path: str) -> bool:
    return path.split("/")[1] in ("predict", "explain", "models") if path.startswith("/") else True
