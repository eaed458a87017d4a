"""Around every request: its id, the security headers, the counters, one line in the log, and the last net."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fromzero.serving.pages import COMMON_HEADERS

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # bounds of the histogram
DRAIN_SECONDS = 2.0  # for what a refused client still sends
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
log = logging.getLogger("fromzero.serving")


@dataclass(frozen=True)
class Counters:
    """What `/metrics` shows of one application. A registry for each: two in a process must not count together."""

    registry: CollectorRegistry
    requests: Counter
    seconds: Histogram
    samples: Counter
    shed: Counter
    batches: Histogram
    in_flight: Gauge
    backlog: Gauge
    headroom: Gauge
    capacity: Gauge
    model: Gauge
    _bound: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def shown(self) -> CollectorRegistry:
        """What to show: where several processes count into one folder, all of them together."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        from prometheus_client.multiprocess import MultiProcessCollector

        together = CollectorRegistry()
        MultiProcessCollector(together)
        return together

    def classified(self, classified: int, refused: int) -> None:
        """So many samples were classified, and so many could not be used."""
        for outcome, count in (("classified", classified), ("refused", refused)):
            if count:
                self.samples.labels(outcome).inc(count)

    def answered(self, path: str, status: int, seconds: float) -> None:
        bound = self._bound.get((path, str(status)))
        if bound is None:  # looking labels up costs more than counting
            bound = self.requests.labels(path, str(status)), self.seconds.labels(path)
            self._bound[path, str(status)] = bound
        bound[0].inc()
        bound[1].observe(seconds)


def counters() -> Counters:
    registry = CollectorRegistry()
    more: dict[str, Any] = {"registry": registry}
    summed = {**more, "multiprocess_mode": "livesum"}  # only of workers that live
    last = {**more, "multiprocess_mode": "livemostrecent"}
    return Counters(
        registry,
        Counter("fromzero_requests_total", "Requests answered", ["path", "status"], **more),
        Histogram("fromzero_request_seconds", "Seconds from request to answer", ["path"], buckets=SECONDS, **more),
        Counter("fromzero_samples_total", "Pictures, texts and rows classified or refused", ["outcome"], **more),
        Counter(
            "fromzero_shed_total", "Requests refused because they would be late, or came too often", ["why"], **more
        ),
        Histogram("fromzero_batch_size", "Samples run at once", ["model"], buckets=SIZES, **more),
        Gauge("fromzero_in_flight", "Requests accepted and not yet answered", **summed),
        Gauge("fromzero_backlog_seconds", "Expected seconds until the work in hand is done", **last),
        Gauge("fromzero_headroom", "Share of the latency target that is let in", **last),
        Gauge("fromzero_capacity_per_second", "Requests a second that were predicted at the start", ["model"], **last),
        Gauge("fromzero_model", "Models by name and version; 1 is ready", ["model", "version"], **last),
    )


class Observer:
    """`failed` makes the answer to a bug of ours; `named` gives the path under which a request is counted: a label for
    each path that somebody invents would never end."""

    def __init__(
        self,
        app: ASGIApp,
        counters: Counters,
        failed: Callable[[Request, str], Response],
        named: Callable[[str], str],
    ) -> None:
        self.app, self.counters, self.failed, self.named = app, counters, failed, named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        identity = _request_id(scope)
        status = 0
        upload = _Upload(scope, receive)

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400:
                    await upload.drain()
                headers = list(message["headers"])
                there = {name for name, _ in headers}
                headers += [each for each in _COMMON if each[0] not in there]
                headers.append((b"x-request-id", identity.encode()))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self.app(scope, upload.receive, send_marked)
        except Exception:  # a bug of ours: the client gets a number to quote, the log gets the traceback
            log.exception("unexpected error", extra={"fields": {"request": identity, "path": scope["path"]}})
            if status == 0:
                answer: Awaitable[None] = self.failed(Request(scope), identity)(scope, receive, send_marked)
                await answer
        seconds = time.perf_counter() - started
        self.counters.answered(self.named(scope["path"]), status, seconds)
        if log.isEnabledFor(logging.INFO):
            fields = {
                "request": identity,
                "client": (scope.get("client") or ("",))[0],
                "method": scope["method"][:20],
                "path": scope["path"][:200],
                "status": status,
                "seconds": round(seconds, 6),
            }
            log.info("request", extra={"fields": fields})


class _Upload:
    """The body of a request. One that is refused before its body was read, by a client that wants the connection
    closed, would lose the answer: a socket closed on unread bytes is reset. So those are read and thrown away first."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        closing = any(name == b"connection" and value.lower() == b"close" for name, value in scope["headers"])
        self._receive = receive
        self._left = closing
        self.receive = self._counted if closing else receive

    async def _counted(self) -> Message:
        message = await self._receive()
        self._left = self._left and bool(message.get("more_body"))
        return message

    async def drain(self) -> None:
        with anyio.move_on_after(DRAIN_SECONDS):
            while self._left:
                await self._counted()


_COMMON = [(name.encode(), value.encode()) for name, value in COMMON_HEADERS.items()]
_COMMON.append((b"cache-control", b"no-store"))


def _request_id(scope: Scope) -> str:
    """The caller's id, if it is one that can safely stand in a log and a header; else a new one."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
    if 0 < len(given) <= 128 and given.isascii() and all(each.isalnum() or each in "._-" for each in given):
        return given
    return f"{random.getrandbits(64):016x}"  # it may be guessed; os.urandom would give up Python's lock
