"""The description of the HTTP API, OpenAPI 3.1, written by hand and kept honest by tests: every status that the
application answers with is here, and `STATUS` is the table it answers from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fromzero.language import LANGUAGES, catalogue
from fromzero.serving.samples import FIELDS, MAX_SAMPLES, content_type
from fromzero.serving.uploads import MAX_FILES, mebibytes

STATUS = {
    "upload_malformed": 400,
    "upload_cut_off": 400,
    "json_malformed": 400,
    "key_wrong": 401,
    "reload_needs_key": 403,
    "model_unknown": 404,
    "upload_too_slow": 408,
    "reload_failed": 409,
    "upload_too_large": 413,
    "upload_too_many": 413,
    "samples_too_many": 413,
    "upload_not_multipart": 415,
    "body_not_json": 415,
    "upload_without_file": 422,
    "json_unexpected": 422,
    "explain_pictures_only": 422,
    "label_unknown": 422,
    "server_busy": 429,
    "rate_exceeded": 429,
}
IMAGE_CODES = ("image_empty", "image_unknown", "image_damaged", "image_too_large")
ROW_CODES = ("no_row", "no_number", "unknown_column", "not_a_text", "value_unusable")
SAMPLE_CODES = (*IMAGE_CODES, *ROW_CODES)
_EXAMPLES = {"text": "...", "table": {"age": 41}}
SCALARS: list[dict[str, Any]] = [{"type": each} for each in ("string", "number", "boolean", "null")]


def document(language: str, models: Sequence[Mapping[str, Any]], *, max_bytes: int, keys: bool) -> dict[str, Any]:
    """The description in `language` for the models by what `GET /models` tells of them, the first of which answers
    /predict; uploads hold at most `max_bytes`, and with `keys` not everyone may ask."""
    from importlib.metadata import version

    rows = catalogue()
    first = models[0]
    model, labels = first["model"], first["labels"]

    def say(key: str, **values: object) -> str:
        return rows[f"openapi.{key}"][LANGUAGES.index(language)].format(**values)

    def errors(*statuses: int) -> dict[str, Any]:
        return {str(status): _error(status, say(f"status_{status}")) for status in statuses}

    def read(summary: str, ok: dict[str, Any], *more: int) -> dict[str, Any]:
        return {"get": {"summary": say(summary), "operationId": summary, "responses": {"200": ok, **errors(*more)}}}

    guarded: dict[str, Any] = {"security": [{"key": []}, {"bearer": []}]} if keys else {}
    turned_away = (401, 429) if keys else (429,)

    def body(task: str, most: int = MAX_FILES) -> dict[str, Any]:
        kind = content_type(task)
        schema = _rows(task) if task in FIELDS else _form(say("file"), most)
        return {"required": True, "content": {kind: {"schema": schema}}}

    def predict(path: str, task: str) -> dict[str, Any]:
        return {
            "summary": say("predict"),
            "description": say("predict_more" if task not in FIELDS else "predict_json", limit=mebibytes(max_bytes)),
            "operationId": _identity(path),
            "parameters": [{"$ref": "#/components/parameters/lang"}],
            "requestBody": body(task),
            **guarded,
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
                **errors(400, *turned_away[:-1], 408, 413, 415, 422, 429, 500),
            },
        }

    def explain(path: str) -> dict[str, Any]:
        label = {"name": "label", "in": "query", "description": say("label"), "schema": {"type": "string"}}
        return {
            "summary": say("explain"),
            "operationId": _identity(path),
            "parameters": [label, {"$ref": "#/components/parameters/lang"}],
            "requestBody": body("image", 1),
            **guarded,
            "responses": {
                "200": _json(say("heat"), {"$ref": "#/components/schemas/Heat"}, None),
                **errors(400, *turned_away[:-1], 408, 413, 415, 422, 429, 500),
            },
        }

    asking: dict[str, Any] = {}
    for prefix, each in (("", first), *((f"/models/{each['name']}", each) for each in models)):
        asking[f"{prefix}/predict"] = {"post": predict(f"{prefix}/predict", each["task"])}
        if each["task"] not in FIELDS:
            asking[f"{prefix}/explain"] = {"post": explain(f"{prefix}/explain")}
        if prefix:
            path = f"{prefix}/reload"
            told = _json(say("reload_done"), {"$ref": "#/components/schemas/Reloaded"}, None)
            asking[path] = {
                "post": {
                    "summary": say("reload"),
                    "operationId": _identity(path),
                    **guarded,
                    "responses": {"200": told, **errors(*turned_away[:-1], *([] if keys else [403]), 409, 429, 500)},
                }
            }
    listing = {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Model"}}
    listed = read("models", _json(say("models"), listing, None), *turned_away)
    listed["get"].update(guarded)
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
            **asking,
            "/models": listed,
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
                        "minItems": 1,
                        "description": say("results"),
                        "items": {
                            "oneOf": [
                                _object(name={"type": "string"}, predictions=prediction),
                                _object(
                                    name={"type": "string"},
                                    code={"type": "string", "enum": list(SAMPLE_CODES)},
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
                    "properties": {
                        "status": {"type": "string"},
                        "model": {"type": "string"},
                        "capacity": {
                            "type": "object",
                            "description": say("capacity"),
                            "additionalProperties": {"type": "number", "minimum": 0},
                        },
                    },
                    "additionalProperties": False,
                },
                "Model": _object(
                    name={"type": "string"},
                    model={"type": "string"},
                    task={"type": "string"},
                    labels={"type": "integer", "minimum": 1},
                    version={"type": "string"},
                    ready={"type": "boolean"},
                    input={"type": "object"},
                ),
                "Reloaded": _object(name={"type": "string"}, version={"type": "string"}, changed={"type": "boolean"}),
                "Heat": _object(
                    label={"type": "string"},
                    grid={
                        "type": "array",
                        "description": say("grid"),
                        "items": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
                    },
                    seconds=closing["seconds"],
                ),
            },
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _identity(path: str) -> str:
    """/models/cat/predict -> "models_cat_predict"."""
    return path.strip("/").replace("/", "_")


def _form(description: str, most: int) -> dict[str, Any]:
    """One file or several, in fields of one name."""
    file = {
        "type": "array",
        "minItems": 1,
        "maxItems": most,
        "description": description,
        "items": {"type": "string", "contentMediaType": "application/octet-stream"},
    }
    return {"type": "object", "required": ["file"], "properties": {"file": file}}


def _rows(task: str) -> dict[str, Any]:
    """One text or row, or a list of them."""
    one, several = FIELDS[task]
    row = {"type": "object", "additionalProperties": {"anyOf": SCALARS}}
    sample = {"type": "string"} if task == "text" else {"anyOf": [row, {"type": "array", "items": row, "minItems": 1}]}
    # Anything may stand in a list: what is no sample gets an error in its place, and the others are answered.
    many = {"type": "array", "examples": [[_EXAMPLES[task]]], "minItems": 1, "maxItems": MAX_SAMPLES}
    return {"oneOf": [_object(**{one: sample}), _object(**{several: many})]}


def codes(status: int) -> tuple[str, ...]:
    """The error codes an answer with this status can carry."""
    named = tuple(code for code, each in STATUS.items() if each == status)
    special = {422: SAMPLE_CODES, 500: ("server_failed",), 503: ("server_not_ready",)}
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
