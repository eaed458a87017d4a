"""The web application: pictures, texts or rows in, labels out, as HTTP and as a page.

    POST /predict                 the first model         GET /healthz   the process is alive
    POST /models/NAME/predict     that model              GET /readyz    every model answers
    POST /explain                 a heat map              GET /metrics   for Prometheus
    GET  /models                  what is served          GET /          the upload page
    POST /models/NAME/reload      the files' new version  GET /docs, /openapi.json

Decoding and inference run on worker threads (`batcher.py`); the event loop only moves bytes, so that health checks are
answered under load. Whatever a client sends is at worst a 4xx; a 5xx is a bug of ours, logged with its request id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from fromzero.errors import FromzeroError, UsageError
from fromzero.machine.process import usable_cores
from fromzero.runtimes import Classifier
from fromzero.serving import openapi, samples, uploads
from fromzero.serving.access import Guard, Limiter, Rate
from fromzero.serving.answers import refusal, spoken_to, status_of, word
from fromzero.serving.batcher import Overloaded, Workers
from fromzero.serving.endpoint import Predict, answered
from fromzero.serving.models import Hosted, Opened, hosted, intact, version_of, warm_up
from fromzero.serving.observing import Observer, counters
from fromzero.serving.pages import Page, page

MAX_BYTES = 20 * 2**20
MAX_HELD = 512 * 2**20  # bytes of all uploads that are being worked on
TARGET = 1.0
MAX_BATCH = 32
EXPLAINED_AT_ONCE = 4  # heat maps that may wait for each other
REHEARSAL = 0.4  # seconds of typical requests at the start
FIXED_PATHS = ("/", "/predict", "/explain", "/models", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs")
log = logging.getLogger("fromzero.serving")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a service behaves. An upload holds at most `max_bytes`; `target` is the latency in seconds that 99 of 100
    accepted requests keep; `language` ("en", "zh") is spoken to clients that ask for none, by default the process's
    own. No `keys`: everyone may ask; no `origins`: no other site's pages may; no `rate`: as often as they like.
    `reloaded` is told when a model was exchanged over HTTP."""

    max_bytes: int = MAX_BYTES
    target: float = TARGET
    max_batch: int = MAX_BATCH
    language: str | None = None
    keys: tuple[bytes, ...] = ()
    origins: tuple[str, ...] = ()
    rate: Rate | None = None
    reloaded: Callable[[], None] = lambda: None


def application(models: Classifier | Mapping[str, Classifier | Opened | Path], **settings: Any) -> Starlette:
    """The application for one model, or for several by name, the first of which answers /predict; a path is opened
    here, and can be opened again. Settings are the fields of `Settings`. Raises what `open_classifier` raises."""
    if not isinstance(models, Mapping):
        models = {"model": models}
    service = Service(models, Settings(**settings))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.workers.start()
        async with anyio.create_task_group() as background:
            background.start_soon(service.warm_up)
            loop = asyncio.get_running_loop()
            service.soon = lambda work: loop.call_soon_threadsafe(background.start_soon, work)
            yield
            background.cancel_scope.cancel()
        service.workers.stop()

    middleware = [
        Middleware(Observer, counters=service.counters, failed=service.failed, named=service.counted_as),
        Middleware(Guard, keys=service.settings.keys, limiter=service.limiter, refuse=service.turn_away),
    ]
    if service.settings.origins:
        from starlette.middleware.cors import CORSMiddleware

        wanted: dict[str, Any] = {
            "allow_origins": list(service.settings.origins),
            "allow_methods": ["GET", "POST"],
            "allow_headers": ["authorization", "x-api-key", "x-request-id", "content-type"],
            "expose_headers": ["x-request-id", "retry-after"],
        }
        middleware.insert(1, Middleware(CORSMiddleware, **wanted))
    predict = Predict(service)
    app = Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/models/{name}/predict", predict, methods=["POST"]),
            Route("/explain", service.explain, methods=["POST"]),
            Route("/models/{name}/explain", service.explain, methods=["POST"]),
            Route("/models/{name}/reload", service.reload, methods=["POST"]),
            Route("/models", service.list_models),
            Route("/healthz", service.health),
            Route("/readyz", service.readiness),
            Route("/metrics", service.metrics),
            Route("/openapi.json", service.description),
            Route("/docs", service.docs_page),
            Route("/", service.upload_page),
        ],
        middleware=middleware,
        exception_handlers={FromzeroError: service.refuse, HTTPException: service.refuse_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


class Service:
    """The models and everything their endpoints share."""

    def __init__(self, sources: Mapping[str, Classifier | Opened | Path], settings: Settings) -> None:
        self.settings = settings
        self.counters = counters()
        self.workers = Workers(usable_cores(), settings.target)
        self.models: dict[str, Hosted] = {}
        for name, source in sources.items():
            self._host(hosted(name, source, self.workers))
        self.first = next(iter(self.models))
        self.limiter = Limiter(settings.rate) if settings.rate else None
        self.intake = uploads.Intake(settings.max_bytes, max(MAX_HELD, settings.max_bytes))
        self.explaining = anyio.CapacityLimiter(1)
        self.explained = 0  # heat maps asked for and not yet answered
        self.exchanging = anyio.Lock()
        self.capacity: dict[str, float] = {}
        self.pages = {name: page(name, **self._facts()) for name in ("page", "docs")}
        self.soon: Callable[[Callable[[], Any]], Any] = lambda work: None  # starts work of ours once the loop runs

    def _host(self, model: Hosted) -> None:
        """From now on requests for its name go to this model."""
        model.lane.seen = self.counters.batches.labels(model.name).observe
        before = self.models.get(model.name)
        self.models[model.name] = model
        if before is not None:
            self.counters.model.labels(before.name, before.version).set(0)

    def _facts(self) -> dict[str, Any]:
        first = self.models[self.first]
        return {
            "model": first.classifier.name,
            "classes": len(first.classifier.labels),
            "task": first.task,
            "explain": first.task not in samples.FIELDS,
            "max_bytes": self.settings.max_bytes,
            "limit": uploads.mebibytes(self.settings.max_bytes),
        }

    async def warm_up(self) -> None:
        """Each model runs once, is timed, and answers typical requests for a moment: what it can do is known before
        the first visitor comes."""
        for model in list(self.models.values()):
            await self._warm(model)

    async def _warm(self, model: Hosted) -> None:
        try:
            await anyio.to_thread.run_sync(warm_up, model, self.workers, self.settings.max_batch)
            if not model.answers:
                return
            self.capacity[model.name] = await self._rehearse(model)
            model.ready = True
        except Exception:  # whatever it is, the service must stay up to say that it is not ready
            log.exception("warm-up failed", extra={"fields": {"model": model.name}})
            return
        self.counters.capacity.labels(model.name).set(self.capacity[model.name])
        fields = {"model": model.name, "requests_per_second": round(self.capacity[model.name], 1)}
        log.info("capacity", extra={"fields": {**fields, "target_seconds": self.settings.target}})

    async def _rehearse(self, model: Hosted) -> float:
        """Requests a second that the service can answer: typical ones, through all but the socket, all workers busy."""
        kind = f"{samples.content_type(model.task)}; boundary=sample"
        over = time.perf_counter() + REHEARSAL
        count = 0

        async def visitor() -> None:
            nonlocal count
            while time.perf_counter() < over:
                answer, _ = await answered(self, model, kind, model.sample, "en", rehearsed=True)
                JSONResponse(answer)
                count += 1

        started = time.perf_counter()
        await asyncio.gather(*[visitor() for _ in range(self.workers.threads)])
        return count / (time.perf_counter() - started)

    def admit(self, model: Hosted, size: int) -> None:
        """Raises UsageError if a request of `size` bytes that came now would be answered too late."""
        try:
            self.workers.admit(model.lane, size)
        except Overloaded as error:
            raise self.shed(error) from None

    def shed(self, error: Overloaded) -> UsageError:
        """The refusal, counted."""
        self.counters.shed.labels("late").inc()
        return UsageError("server_busy", seconds=error.seconds)

    def model(self, name: str | None) -> Hosted:
        """The model of that name, by default the first. Raises UsageError if there is none."""
        found = self.models.get(self.first if name is None else name)
        if found is None:
            raise UsageError("model_unknown", name=str(name)[:100], known=", ".join(self.models))
        return found

    async def explain(self, request: Request) -> Response:
        """Which parts of a picture speak for a class, by default its most probable one."""
        model = self.model(request.path_params.get("name"))
        if model.task in samples.FIELDS:
            raise UsageError("explain_pictures_only")
        if self.explained >= EXPLAINED_AT_ONCE:
            raise self.shed(Overloaded(1.0))
        label = request.query_params.get("label")
        if label is not None and label not in model.classifier.labels:
            raise UsageError("label_unknown", label=label[:100])
        self.explained += 1
        try:
            async with self.intake.body(request, uploads.FORM) as body:
                started = time.perf_counter()
                reading = samples.Reading(
                    model.classifier,
                    request.headers["content-type"],
                    body,
                    word("serve.unnamed", self.spoken(request)),
                )
                answer = await anyio.to_thread.run_sync(_heat, reading, label, limiter=self.explaining)
        finally:
            self.explained -= 1
        return JSONResponse({**answer, "seconds": round(time.perf_counter() - started, 6)})

    async def list_models(self, request: Request) -> Response:
        return JSONResponse([each.record() for each in self.models.values()])

    async def reload(self, request: Request) -> Response:
        model = self.model(request.path_params.get("name"))
        if not self.settings.keys:
            raise UsageError("reload_needs_key")
        if model.path is None:
            raise UsageError("reload_failed", name=model.name, reason="no folder")
        try:
            changed = await self.exchange(model.name)
        except FromzeroError as error:
            raise UsageError("reload_failed", name=model.name, reason=str(error)) from error
        if changed:
            self.settings.reloaded()
        return JSONResponse({"name": model.name, "version": self.models[model.name].version, "changed": changed})

    async def exchange(self, name: str) -> bool:
        """Answer with what now lies in the model's folder: opened and warmed while the old one answers, then put in
        its place. Requests that the old one has accepted are answered by it. False: nothing new lies there. Raises
        what `open_classifier` raises, also for files that are no longer what they were; then the old one stays."""
        async with self.exchanging:
            old = self.models[name]
            if old.path is None:
                return False
            if version_of(old.path) == old.version:
                await anyio.to_thread.run_sync(intact, old.path)
                return False
            fresh = await anyio.to_thread.run_sync(hosted, name, old.path, self.workers)
            await self._warm(fresh)
            if not fresh.ready:
                raise UsageError("reload_failed", name=name, reason="warm-up")
            self._host(fresh)
            if name == self.first:
                self.pages = {each: page(each, **self._facts()) for each in ("page", "docs")}
            log.info("exchanged", extra={"fields": {"model": name, "from": old.version, "to": fresh.version}})
            return True

    def exchange_soon(self) -> None:
        """`exchange_all`, asked for by a signal."""
        self.soon(self.exchange_all)

    async def exchange_all(self) -> None:
        """Every model whose files changed."""
        for name in list(self.models):
            try:
                if await self.exchange(name):
                    continue
                log.info("unchanged", extra={"fields": {"model": name}})
            except Exception:  # the old one goes on answering
                log.exception("exchange failed", extra={"fields": {"model": name}})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readiness(self, request: Request) -> Response:
        if not all(each.ready for each in self.models.values()):
            return refusal(503, FromzeroError("server_not_ready"), self.spoken(request))
        first = self.models[self.first]
        return JSONResponse({"status": "ready", "model": first.classifier.name, "capacity": self._capacity()})

    def _capacity(self) -> dict[str, float]:
        """Requests a second, by the name of the model."""
        return {name: round(each, 1) for name, each in self.capacity.items()}

    async def metrics(self, request: Request) -> Response:
        shown = self.counters
        shown.in_flight.set(sum(each.lane.pending for each in self.models.values()))
        shown.backlog.set(self.workers.backlog)
        shown.headroom.set(self.workers.headroom)
        for each in self.models.values():
            shown.model.labels(each.name, each.version).set(each.ready)
        return Response(generate_latest(shown.shown()), media_type=CONTENT_TYPE_LATEST)

    async def description(self, request: Request) -> Response:
        models = [each.record() for each in self.models.values()]
        document = openapi.document(
            self.spoken(request), models, max_bytes=self.settings.max_bytes, keys=bool(self.settings.keys)
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
        return spoken_to(request.scope, dict(request.scope["headers"]), self.settings.language)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """An error of ours for the client, with the status the API promises for its code."""
        assert isinstance(error, FromzeroError)
        status = status_of(error)
        if status is None:  # an error that no request can cause
            raise error
        return refusal(status, error, self.spoken(request))

    async def refuse_route(self, request: Request, error: Exception) -> Response:
        """No such path, or not with this method."""
        assert isinstance(error, HTTPException)
        code = {404: "path_unknown", 405: "method_not_allowed"}.get(error.status_code, "request_refused")
        values = {"path": request.url.path[:200], "method": request.method[:20], "status": error.status_code}
        return refusal(error.status_code, FromzeroError(code, **values), self.spoken(request), error.headers)

    def turn_away(self, request: Request, seconds: float | None) -> Response:
        """A request without a key, or one that came `seconds` too soon."""
        if seconds is None:
            headers = {"www-authenticate": "Bearer"}
            return refusal(401, UsageError("key_wrong"), self.spoken(request), headers)
        self.counters.shed.labels("rate").inc()
        return refusal(429, UsageError("rate_exceeded", seconds=seconds), self.spoken(request))

    def failed(self, request: Request, identity: str) -> Response:
        return refusal(500, FromzeroError("server_failed", request=identity), self.spoken(request))

    def counted_as(self, path: str) -> str:
        """A path as the label of a counter: those invented by clients are one."""
        if path in FIXED_PATHS:
            return path
        parts = path.split("/")
        known = len(parts) == 4 and parts[1] == "models" and parts[2] in self.models
        return path if known and parts[3] in ("predict", "explain", "reload") else "other"


def _heat(reading: samples.Reading, label: str | None) -> dict[str, Any]:
    from fromzero.explaining import occlusion, scaled

    classifier = reading.classifier
    outcome = reading()[0]
    if isinstance(outcome, FromzeroError):
        raise outcome
    if label is None:
        label = classifier.labels[int(np.argmax(classifier.scores(outcome[None])[0]))]
    heat = scaled(occlusion(classifier, outcome, classifier.labels.index(label)))
    return {"label": label, "grid": [[round(float(each), 4) for each in row] for row in heat]}
