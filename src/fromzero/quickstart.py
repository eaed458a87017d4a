"""quickstart(): the whole path once, on real data: get, check, split, plan, train, evaluate, export, serve.

Each stage is the function behind the command of that name; this file only puts them in a row and tells what happened.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromzero import exporting, planning, report
from fromzero.data.check import check
from fromzero.data.manifest import Manifest
from fromzero.data.opening import open_data
from fromzero.data.sources.get import get
from fromzero.errors import FromzeroError
from fromzero.evaluation import Evaluation
from fromzero.exporting import Artifact
from fromzero.language import say
from fromzero.machine.process import free_port
from fromzero.predicting import classify, open_classifier
from fromzero.preparing import prepare
from fromzero.records import Plan
from fromzero.runs import Run
from fromzero.starting import train
from fromzero.tasks import image
from fromzero.terminal import Console, seconds_text

DATA_SET = "fashion-mnist"
CARDS = ("GTX 1080 Ti", "RTX 3060 12 GB", "RTX 4090")  # shown beside the device at hand
# For two slow CPU cores and a few minutes; a card would take more epochs.
RECIPE: dict[str, Any] = {"model": "cnn", "epochs": 8, "batch": 128, "lr": 4e-3}
UPLOADS = 200
SERVER_SECONDS = 30.0  # to wait for the server to answer


@dataclass(frozen=True)
class Served:
    """The uploads to the real server: how many equal local predictions, and seconds per request."""

    uploads: int
    equal: int
    p50: float
    p99: float


@dataclass(frozen=True)
class Quickstart:
    """What the path produced."""

    run: Path
    artifact: Artifact
    plans: tuple[Plan, ...]
    evaluation: Evaluation
    served: Served
    seconds: float


def quickstart(
    data: Path | None = None,
    output: Path | None = None,
    *,
    uploads: int = UPLOADS,
    console: Console | None = None,
    **recipe: Any,
) -> Quickstart:
    """Walk the path on Fashion-MNIST, or on the folder `data`. `recipe` replaces words of RECIPE. Raises FromzeroError
    where a stage says no, and also if a served answer differs from the local one."""
    console = console or Console()
    started = time.monotonic()
    words = {**RECIPE, **recipe}

    _stage(1, "get", console)
    folder = data or get(DATA_SET, console=console)

    _stage(2, "check", console)
    manifest = prepare(folder, console)
    _tell_findings(manifest, console)

    _stage(3, "plan", console)
    plans = tuple(_plans(manifest, words))
    for each in plans:
        console.line(planning.summary(each))

    _stage(4, "train", console)
    run = train(folder, output=output, console=console, **words)

    _stage(5, "evaluate", console)
    evaluation = report.evaluate(run.path, console=console)
    assert isinstance(evaluation, Evaluation)
    console.line(report.summary(evaluation, run.path))

    _stage(6, "export", console)
    artifact = exporting.export(run.path)
    console.line(exporting.summary(artifact))

    _stage(7, "serve", console)
    served = check_server(artifact.path, _test_pictures(run, uploads))
    times = {"p50": seconds_text(served.p50), "p99": seconds_text(served.p99)}
    console.line(say("quickstart.served", uploads=served.uploads, equal=served.equal, **times))
    if served.equal != served.uploads:
        raise FromzeroError("served_differs", equal=served.equal, uploads=served.uploads)

    seconds = time.monotonic() - started
    console.line(say("quickstart.done", seconds=seconds_text(seconds), artifact=artifact.path, run=run.path))
    return Quickstart(run.path, artifact, plans, evaluation, served, seconds)


def _stage(number: int, name: str, console: Console) -> None:
    console.line(f"[{number}/7] {say(f'quickstart.{name}')}")


def check_server(artifact: Path, pictures: Sequence[Path]) -> Served:
    """Start the real server on a free port, upload each picture over HTTP, compare with `predict`, stop the server."""
    port = free_port()
    command = [sys.executable, "-m", "fromzero", "serve", str(artifact), "--port", str(port), "--quiet"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/readyz", server)
        local = open_classifier(artifact)
        equal, seconds = 0, []
        for picture in pictures:
            start = time.perf_counter()
            answer = upload(f"http://127.0.0.1:{port}/predict", picture)
            seconds.append(time.perf_counter() - start)
            here = classify(local, picture)
            labels = [each["label"] for each in answer["predictions"]] == [each.label for each in here]
            pairs = zip(answer["predictions"], here, strict=True)
            equal += labels and all(abs(there["score"] - each.score) < 1e-5 for there, each in pairs)
        p99 = sorted(seconds)[min(len(seconds) - 1, int(0.99 * len(seconds)))]
        return Served(len(pictures), equal, statistics.median(seconds), p99)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def upload(url: str, picture: Path) -> dict[str, Any]:
    """POST one file as a browser's form would; the JSON answer."""
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{picture.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(url, body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _wait_for(url: str, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            reason = server.stderr.read() if server.stderr else ""
            raise FromzeroError("server_did_not_start", reason=reason.strip()[-500:])
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise FromzeroError("server_did_not_start", reason=f"{SERVER_SECONDS:.0f} s")


def _plans(manifest: Manifest, words: dict[str, Any]) -> Any:
    """The same workload on the device at hand and on three cards, each with the largest batch it could take."""
    how = image.preprocessing(manifest, words["model"], words)
    recipe = {name: value for name, value in words.items() if name not in ("model", "imgsz", "batch")}
    shape: dict[str, Any] = {**image.shape(how), "classes": len(manifest.classes)}
    samples = len(manifest.rows("train"))
    for card in (None, *CARDS):
        yield planning.plan(words["model"], card=card, batch="auto", samples=samples, **shape, **recipe)


def _tell_findings(manifest: Manifest, console: Console) -> None:
    seen = check(manifest)
    found = ", ".join(f"{name} {len(entries)}" for name, entries in seen.findings.items() if entries)
    counts = {part: len(manifest.rows(part)) for part in ("train", "val", "test")}
    console.line(
        say(
            "quickstart.data",
            images=seen.images,
            classes=len(seen.classes),
            found=found or say("quickstart.nothing"),
            **counts,
        )
    )


def _test_pictures(run: Run, count: int) -> list[Path]:
    manifest = open_data(run.record()["data"], quick=True)
    rows = manifest.rows("test")
    rows = rows if len(rows) else manifest.rows("val")
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
    return [manifest.folder / str(manifest["path"][row]) for row in rows]
