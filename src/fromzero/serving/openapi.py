"""The description of the HTTP API, OpenAPI 3.1, written by hand and kept honest by tests: every status that the
application answers with is here, and `STATUS` is the table it answers from."""

from __future__ import annotations

from typing import Any

from fromzero.language import LANGUAGES, catalogue
from fromzero.serving.uploads import MAX_FILES, mebibytes

STATUS = {
    "upload_malformed": 400,
    "upload_cut_off": 400,
    "upload_too_slow": 408,
    "upload_too_large": 413,
    "upload_too_many": 413,
    "upload_not_multipart": 415,
    "upload_without_file": 422,
    "server_busy": 429,
}
IMAGE_CODES = ("image_empty", "image_unknown", "image_damaged", "image_too_large")


def document(language: str, *, model: str, labels: int, max_bytes: int) -> dict[str, Any]:
    """The description in `language`, for a model with so many `labels` and uploads of at most `max_bytes`."""
    from importlib.metadata import version

    rows = catalogue()

    def say(key: str, **values: object) -> str:
        return rows[f"openapi.{key}"][LANGUAGES.index(language)].format(**values)

    def errors(*statuses: int) -> dict[str, Any]:
        return {str(status): _error(status, say(f"status_{status}")) for status in statuses}

    def read(summary: str, ok: dict[str, Any], *more: int) -> dict[str, Any]:
        return {"get": {"summary": say(summary), "operationId": summary, "responses": {"200": ok, **errors(*more)}}}

    prediction: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "maxItems": 5,
        "description": say("predictions"),
        "items": {"$ref": "#/components/schemas/Prediction"},
    }
    closing: dict[str, Any] = {
        "model": {"type": "string", "examples": [model]},
        "seconds": {"type": "number", "minimum": 0, "description": say("seconds")},
    }
    predict = {
        "summary": say("predict"),
        "description": say("predict_more", limit=mebibytes(max_bytes)),
        "operationId": "predict",
        "parameters": [{"$ref": "#/components/parameters/lang"}],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {
                            "file": {
                                "type": "array",
                                "minItems": 1,
                                "maxItems": MAX_FILES,
                                "description": say("file"),
                                "items": {"type": "string", "contentMediaType": "application/octet-stream"},
                            }
                        },
                    }
                }
            },
        },
        "responses": {
            "200": _json(
                say("predict_done"),
                {"oneOf": [{"$ref": "#/components/schemas/One"}, {"$ref": "#/components/schemas/Several"}]},
                {
                    "predictions": [{"label": "cat", "score": 0.93}, {"label": "dog", "score": 0.05}],
                    "model": model,
                    "seconds": 0.012,
                },
            ),
            **errors(400, 408, 413, 415, 422, 429, 500),
        },
    }
    alive = _json(say("alive"), {"$ref": "#/components/schemas/Status"}, {"status": "alive"})
    ready = _json(say("ready"), {"$ref": "#/components/schemas/Status"}, {"status": "ready", "model": model})
    html = {"description": say("html"), "content": {"text/html": {"schema": {"type": "string"}}}}
    text = {"description": say("metrics_text"), "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"fromzero: {model}",
            "version": version("fromzero"),
            "description": say("about", model=model, labels=labels),
        },
        "paths": {
            "/predict": {"post": predict},
            "/healthz": read("health", alive),
            "/readyz": read("readiness", ready, 503),
            "/metrics": read("metrics", text),
            "/openapi.json": read("description", _json(say("description"), {"type": "object"}, None)),
            "/docs": read("docs", html),
            "/": read("page", html),
        },
        "components": {
            "parameters": {
                "lang": {
                    "name": "lang",
                    "in": "query",
                    "description": say("lang"),
                    "schema": {"type": "string", "examples": list(LANGUAGES)},
                }
            },
            "schemas": {
                "Prediction": _object(label={"type": "string"}, score={"type": "number", "minimum": 0, "maximum": 1}),
                "Error": _object(code={"type": "string"}, message={"type": "string"}),
                "One": _object(predictions=prediction, **closing),
                "Several": _object(
                    results={
                        "type": "array",
                        "minItems": 2,
                        "description": say("results"),
                        "items": {
                            "oneOf": [
                                _object(name={"type": "string"}, predictions=prediction),
                                _object(
                                    name={"type": "string"},
                                    code={"type": "string", "enum": list(IMAGE_CODES)},
                                    message={"type": "string"},
                                ),
                            ]
                        },
                    },
                    **closing,
                ),
                "Status": {
                    "type": "object",
                    "required": ["status"],
                    "properties": {"status": {"type": "string"}, "model": {"type": "string"}},
                    "additionalProperties": False,
                },
            },
        },
    }


def codes(status: int) -> tuple[str, ...]:
    """The error codes an answer of /predict or /readyz with this status can carry."""
    named = tuple(code for code, each in STATUS.items() if each == status)
    special = {422: IMAGE_CODES, 500: ("server_failed",), 503: ("server_not_ready",)}
    return (*named, *special.get(status, ()))


def _json(description: str, schema: dict[str, Any], example: Any) -> dict[str, Any]:
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"description": description, "content": {"application/json": content}}


def _error(status: int, description: str) -> dict[str, Any]:
    code = {"properties": {"code": {"enum": list(codes(status))}}}
    answer = _json(description, {"allOf": [{"$ref": "#/components/schemas/Error"}, code]}, None)
    if status in (429, 503):
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return answer


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }
