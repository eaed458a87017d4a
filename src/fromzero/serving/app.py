"""The web application: pictures in, labels out, as HTTP and as a page.

    POST /predict   multipart field `file`, one or many      GET /          the upload page
    GET  /healthz   the process is alive                     GET /docs      the API, with a form to try it
    GET  /readyz    the model answers                        GET /openapi.json, /metrics

Decoding and inference run on as many worker threads as there are cores; the event loop only moves bytes, so that
health checks are answered under load. Whatever a client sends is at worst a 4xx; a 5xx is a bug of ours and is logged
with its request id.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fromzero import language as speech
from fromzero.data.images import prepared
from fromzero.errors import FromzeroError, UnreadableImage
from fromzero.machine.process import usable_cores
from fromzero.predicting import ranked
from fromzero.records import Prediction, to_json
from fromzero.runtimes import Classifier
from fromzero.serving import openapi, uploads
from fromzero.serving.pages import COMMON_HEADERS, Page, page

TOP = 5
MAX_BYTES = 20 * 2**20
MAX_HELD = 512 * 2**20  # bytes of all uploads that are being worked on
PATHS = ("/", "/predict", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs")
log = logging.getLogger("fromzero.serving")


def application(classifier: Classifier, *, max_bytes: int = MAX_BYTES, language: str | None = None) -> Starlette:
    """The application for one model. An upload holds at most `max_bytes`; `language` ("en", "zh") is spoken to clients
    that ask for none, by default the process's own."""
    service = Service(classifier, max_bytes, language)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as background:
            background.start_soon(service.warm_up)
            yield
            background.cancel_scope.cancel()

    app = Starlette(
        routes=[
            Route("/predict", service.predict, methods=["POST"]),
            Route("/healthz", service.health),
            Route("/readyz", service.readiness),
            Route("/metrics", service.metrics),
            Route("/openapi.json", service.description),
            Route("/docs", service.docs_page),
            Route("/", service.upload_page),
        ],
        middleware=[Middleware(Observer, service=service)],
        exception_handlers={FromzeroError: service.refuse, HTTPException: service.refuse_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


@dataclass(frozen=True)
class Counters:
    """What `/metrics` shows of one application."""

    registry: CollectorRegistry
    requests: Counter
    seconds: Histogram
    images: Counter


def _counters() -> Counters:
    registry = CollectorRegistry()  # one for each application: two of them in a process must not count together
    return Counters(
        registry,
        Counter("fromzero_requests_total", "Requests answered", ["path", "status"], registry=registry),
        Histogram("fromzero_request_seconds", "Seconds from request to answer", ["path"], registry=registry),
        Counter("fromzero_images_total", "Pictures classified or refused", ["outcome"], registry=registry),
    )


class Service:
    """One model and everything its endpoints share."""

    def __init__(self, classifier: Classifier, max_bytes: int, language: str | None) -> None:
        self.classifier = classifier
        self.language = language
        self.ready = False
        self.counters = _counters()
        self.intake = uploads.Intake(max_bytes, max(MAX_HELD, max_bytes))
        self.workers = anyio.CapacityLimiter(usable_cores())
        facts = {"model": classifier.name, "classes": len(classifier.labels), "max_bytes": max_bytes}
        facts["limit"] = uploads.mebibytes(max_bytes)
        self.pages = {name: page(name, **facts) for name in ("page", "docs")}

    async def warm_up(self) -> None:
        """The first run of a model is the slowest and the one that fails: it is ours, not a visitor's."""
        how = self.classifier.preprocessing
        blank = np.zeros((1, how.size, how.size, how.channels), np.uint8)
        try:
            scores = await anyio.to_thread.run_sync(self.classifier.scores, blank, limiter=self.workers)
            self.ready = bool(np.isfinite(scores).all()) and scores.shape == (1, len(self.classifier.labels))
            if not self.ready:
                log.error("warm-up gave no probabilities", extra={"fields": {"shape": list(scores.shape)}})
        except Exception:  # whatever it is, the service must stay up to say that it is not ready
            log.exception("warm-up failed")

    async def predict(self, request: Request) -> Response:
        async with self.intake.body(request) as body:
            started = time.perf_counter()
            content_type, spoken = request.headers["content-type"], self.spoken(request)
            answer = await anyio.to_thread.run_sync(self._answer, content_type, body, spoken, limiter=self.workers)
        seconds = round(time.perf_counter() - started, 6)
        return JSONResponse({**answer, "model": self.classifier.name, "seconds": seconds})

    def _answer(self, content_type: str, body: bytes, spoken: str) -> dict[str, Any]:
        received = uploads.files(content_type, body)
        outcomes = classify(self.classifier, received, speech.catalogue()["serve.unnamed"][_column(spoken)])
        refused = sum(isinstance(each, UnreadableImage) for each in outcomes)
        self.counters.images.labels("refused").inc(refused)
        self.counters.images.labels("classified").inc(len(outcomes) - refused)
        if len(received) == 1:
            if isinstance(outcomes[0], UnreadableImage):
                raise outcomes[0]
            return {"predictions": to_json(outcomes[0])}
        return {
            "results": [
                {"name": upload.name, **_explained(outcome, spoken)}
                if isinstance(outcome, UnreadableImage)
                else {"name": upload.name, "predictions": to_json(outcome)}
                for upload, outcome in zip(received, outcomes, strict=True)
            ]
        }

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readiness(self, request: Request) -> Response:
        if self.ready:
            return JSONResponse({"status": "ready", "model": self.classifier.name})
        return self.refusal(503, FromzeroError("server_not_ready"), request)

    async def metrics(self, request: Request) -> Response:
        return Response(generate_latest(self.counters.registry), media_type=CONTENT_TYPE_LATEST)

    async def description(self, request: Request) -> Response:
        document = openapi.document(
            self.spoken(request),
            model=self.classifier.name,
            labels=len(self.classifier.labels),
            max_bytes=self.intake.max_bytes,
        )
        return JSONResponse(document)

    async def upload_page(self, request: Request) -> Response:
        return self._html(self.pages["page"], request)

    async def docs_page(self, request: Request) -> Response:
        return self._html(self.pages["docs"], request)

    def _html(self, shown: Page, request: Request) -> Response:
        spoken = self.spoken(request)
        headers = {"content-security-policy": shown.policy, "content-language": spoken, "vary": "accept-language"}
        return HTMLResponse(shown.texts[spoken], headers=headers)

    def spoken(self, request: Request) -> str:
        """The language to answer in: `?lang=`, else the browser's, else the service's."""
        asked = request.query_params.get("lang")
        if asked in speech.LANGUAGES:
            return str(asked)
        return accepted(request.headers.get("accept-language", "")) or self.language or speech.current()

    async def refuse(self, request: Request, error: Exception) -> Response:
        """An error of ours for the client, with the status the API promises for its code."""
        assert isinstance(error, FromzeroError)
        status = 422 if isinstance(error, UnreadableImage) else openapi.STATUS.get(error.code)
        if status is None:  # an error that no upload can cause
            raise error
        return self.refusal(status, error, request)

    async def refuse_route(self, request: Request, error: Exception) -> Response:
        """No such path, or not with this method."""
        assert isinstance(error, HTTPException)
        code = {404: "path_unknown", 405: "method_not_allowed"}.get(error.status_code, "request_refused")
        values = {"path": request.url.path[:200], "method": request.method[:20], "status": error.status_code}
        return self.refusal(error.status_code, FromzeroError(code, **values), request, error.headers)

    def refusal(
        self, status: int, error: FromzeroError, request: Request, headers: Mapping[str, str] | None = None
    ) -> Response:
        more = {"retry-after": "1"} if status in (429, 503) else {}
        if status in (408, 413):  # the rest of the upload may still be on its way: this connection is spoilt
            more["connection"] = "close"
        return JSONResponse(_explained(error, self.spoken(request)), status, headers={**(headers or {}), **more})


def classify(
    classifier: Classifier, received: Sequence[uploads.Upload], unnamed: str
) -> list[list[Prediction] | UnreadableImage]:
    """The best predictions for each upload, or why it cannot be read; the readable ones run as one batch."""
    how = classifier.preprocessing
    outcomes: list[Any] = []
    for upload in received:
        try:
            outcomes.append(prepared(upload.content, how, upload.name or unnamed))
        except UnreadableImage as error:
            outcomes.append(error)
    readable = [position for position, each in enumerate(outcomes) if isinstance(each, np.ndarray)]
    if readable:
        scores = classifier.scores(np.stack([outcomes[position] for position in readable]))
        for position, row in zip(readable, scores, strict=True):
            outcomes[position] = ranked(classifier.labels, row, TOP)
    return outcomes


def accepted(header: str) -> str | None:
    """The first of our languages in an Accept-Language header by its weights; None if there is none."""
    weighted = []
    for position, each in enumerate(header.split(",")[:32]):
        tag, _, parameters = each.strip().partition(";")
        weight = parameters.strip().removeprefix("q=")
        try:
            weighted.append((-float(weight or 1), position, tag.strip().lower().split("-")[0]))
        except ValueError:
            continue
    return next((tag for weight, _, tag in sorted(weighted) if weight < 0 and tag in speech.LANGUAGES), None)


def _column(spoken: str) -> int:
    return speech.LANGUAGES.index(spoken)


def _explained(error: FromzeroError, spoken: str) -> dict[str, str]:
    """Code, and cause and fix in the client's language: the error itself speaks the server's."""
    rows = speech.catalogue()
    texts = [rows[key][_column(spoken)].format(**error.values) for key in _keys(error)]
    return {"code": error.code, "message": (" " if spoken == "en" else "").join(texts)}


def _keys(error: FromzeroError) -> tuple[str, str]:
    return f"error.{error.code}", f"error.{error.code}.fix"


class Observer:
    """Around every request: its id, the security headers, the counters, one line in the log, and the last net."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        identity = _request_id(Headers(scope=scope).get("x-request-id", ""))
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = identity
                for name, value in COMMON_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self.app(scope, receive, send_marked)
        except Exception:  # a bug of ours: the client gets a number to quote, the log gets the traceback
            log.exception("unexpected error", extra={"fields": {"request": identity, "path": scope["path"]}})
            if status == 0:
                service, request = self.service, Request(scope)
                answer = service.refusal(500, FromzeroError("server_failed", request=identity), request)
                await answer(scope, receive, send_marked)
        self._note(scope, identity, status, time.perf_counter() - started)

    def _note(self, scope: Scope, identity: str, status: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in PATHS else "other"  # a label for each path invented would never end
        self.service.counters.requests.labels(path, str(status)).inc()
        self.service.counters.seconds.labels(path).observe(seconds)
        fields = {
            "request": identity,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"][:20],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 6),
        }
        log.info("request", extra={"fields": fields})


def _request_id(given: str) -> str:
    """The caller's id, if it is one that can safely stand in a log and a header; else a new one."""
    if 0 < len(given) <= 128 and given.isascii() and all(each.isalnum() or each in "._-" for each in given):
        return given
    return uuid.uuid4().hex[:16]
