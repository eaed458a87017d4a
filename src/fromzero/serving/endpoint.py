"""`POST /predict`: from a request's bytes to its answer, written as a bare ASGI application, because what happens here
happens for every picture: a request object, a response object and a timer each would cost as much as the routing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from fromzero.errors import FromzeroError
from fromzero.serving import samples
from fromzero.serving.answers import explained, predictions, spoken_to, word
from fromzero.serving.batcher import Overloaded
from fromzero.serving.models import Hosted

if TYPE_CHECKING:
    from fromzero.serving.app import Service


class Predict:
    """Answers with the model of the path, or the first."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises FromzeroError for whatever is refused; the application makes an answer of it."""
        service = self.service
        headers = dict(scope["headers"])
        model = service.model(scope["path_params"].get("name"))
        spoken = spoken_to(scope, headers, service.settings.language)
        announced = headers.get(b"content-length", b"")[:12]
        if announced.isdigit() and int(announced) <= service.settings.max_bytes:
            service.admit(model, int(announced))  # before its body is taken in: refusing must cost next to nothing
        body = await service.intake.take(headers, receive, samples.content_type(model.task))
        try:
            started = time.perf_counter()
            kind = headers[b"content-type"].decode("latin-1")
            answer, refused = await answered(service, model, kind, body, spoken)
        finally:
            service.intake.release(body)
        service.counters.classified(len(answer.get("results", [None])) - refused, refused)
        answer["model"] = model.classifier.name
        answer["seconds"] = round(time.perf_counter() - started, 6)
        await _send_json(send, answer)


async def answered(
    service: Service, model: Hosted, content_type: str, body: bytes, spoken: str, rehearsed: bool = False
) -> tuple[dict[str, Any], int]:
    """The answer to a body, and how many of its samples were refused. Raises the error of a single one."""
    reading = samples.Reading(model.classifier, content_type, body, word("serve.unnamed", spoken))
    try:
        outcomes = await service.workers.submit(model.lane, reading, len(body), always=rehearsed)
    except Overloaded as error:
        raise service.shed(error) from None
    assert reading.samples is not None
    labels = model.classifier.labels
    if not reading.samples.many:
        (outcome,) = outcomes
        if isinstance(outcome, FromzeroError):
            service.counters.classified(0, 1)
            raise outcome
        return {"predictions": predictions(labels, outcome)}, 0
    told: list[dict[str, Any]] = []
    for name, outcome in zip(reading.samples.names, outcomes, strict=True):
        if isinstance(outcome, FromzeroError):
            told.append({"name": name, **explained(outcome, spoken)})
        else:
            told.append({"name": name, "predictions": predictions(labels, outcome)})
    return {"results": told}, sum(isinstance(each, FromzeroError) for each in outcomes)


async def _send_json(send: Send, value: Mapping[str, Any]) -> None:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
