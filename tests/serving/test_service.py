"""Batching, admission, JSON, several models, exchange, keys, rates, and a worker that is killed."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
from starlette.testclient import TestClient

from fromzero.cli import main
from fromzero.errors import UsageError
from fromzero.serving import access
from fromzero.serving.app import application
from fromzero.serving.batcher import FIRST_HEADROOM, Lane, Overloaded, Times, Workers, measure
from fromzero.serving.models import hosted


@pytest.fixture
def rows(threshold, ready):
    with TestClient(application(threshold, language="en"), raise_server_exceptions=True) as client:
        yield ready(client)


def test_rows_as_json(rows):
    one = rows.post("/predict", json={"row": {"size": 3, "kind": "a"}}).json()
    assert one["predictions"][0]["label"] == "high" and one["model"] == "threshold"
    many = rows.post("/predict", json={"rows": [{"size": -3}, {"size": "x"}, {"size": 2}]}).json()["results"]
    assert [each["name"] for each in many] == ["0", "1", "2"]
    assert many[0]["predictions"][0]["label"] == "low" and many[1]["code"] == "no_number"
    assert rows.post("/predict", json={"rows": [{}]}).json()["results"][0]["predictions"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "json_malformed"),
        (b"\xff", 400, "json_malformed"),
        (b'{"row": {"size": NaN}}', 400, "json_malformed"),
        (b'{"row": {"\\ud800": 1}}', 400, "json_malformed"),
        (b"[" * 200_000, 400, "json_malformed"),
        (b'{"row": {"size": 1%s}}' % (b"0" * 400), 422, "value_unusable"),
        (b'{"row": {"size": 1%s}}' % (b"0" * 9000), 400, "json_malformed"),
        (b'{"row": {"other": 1}}', 422, "unknown_column"),
        (b'{"row": 7}', 422, "no_row"),
        (b'{"row": {}, "rows": []}', 422, "json_unexpected"),
        (b'{"rows": []}', 422, "json_unexpected"),
        (b'{"rows": [%s]}' % b",".join([b"{}"] * 300), 413, "samples_too_many"),
        (b"7", 422, "json_unexpected"),
    ],
)
def test_hostile_json(rows, body, status, code):
    answer = rows.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert rows.post("/predict", content=body, headers={"content-type": "text/plain"}).status_code == 415


def test_batches_only_where_it_was_measured_to_help():
    sample = np.zeros(3)
    assert measure(lambda batch: time.sleep(0.002), sample, 16, 1.0).best > 4  # a batch takes as long as one
    assert measure(lambda batch: time.sleep(0.004 * len(batch)), sample, 16, 1.0).best == 1
    assert max(measure(lambda batch: time.sleep(0.002), sample, 16, 0.0001).runs) == 2  # too slow for the target


def test_what_waits_runs_together_and_each_gets_its_own():
    sizes, gate = [], threading.Event()

    def scores(batch):
        gate.wait(5)
        sizes.append(len(batch))
        return batch * 2

    lane = Lane(scores, slots=1, times=Times({1: 0.001, 8: 0.002}, 8))
    workers = Workers(2)
    workers.start()

    async def ask(number):
        (answer,) = await workers.submit(lane, lambda: [np.array([number])], 10)
        return int(answer[0])

    async def all_of_them():
        asking = [asyncio.ensure_future(ask(number)) for number in range(20)]
        await asyncio.sleep(0.1)
        gate.set()
        return await asyncio.gather(*asking)

    assert asyncio.run(all_of_them()) == [2 * number for number in range(20)]
    workers.stop()
    assert max(sizes) == 8 and len(sizes) < 10 and sum(sizes) == 20
    assert workers.backlog == pytest.approx(0, abs=1e-9) and lane.pending == 0


def test_what_would_be_late_is_refused_at_once():
    lane = Lane(lambda batch: (time.sleep(0.02), batch)[1], slots=2, times=Times({1: 0.02}, 1))
    workers = Workers(2, target=0.1)
    workers.start()
    took, refused = [], []

    async def ask():
        started = time.perf_counter()
        try:
            await workers.submit(lane, lambda: [np.zeros(1)], 10)
            took.append(time.perf_counter() - started)
        except Overloaded as error:
            refused.append(error.seconds)
            assert time.perf_counter() - started < 0.05

    async def all_of_them():
        await asyncio.gather(*[ask() for _ in range(100)])

    asyncio.run(all_of_them())
    workers.stop()
    assert 4 <= len(took) <= 15 and len(refused) == 100 - len(took)
    assert all(each > 0 for each in refused)


def test_late_answers_lower_what_is_let_in():
    lane = Lane(lambda batch: (time.sleep(0.03), batch)[1], times=Times({1: 0.001}, 1))  # slower than it was measured
    workers = Workers(1, target=0.02)
    workers.start()

    async def ask():
        for _ in range(5):
            await workers.submit(lane, lambda: [np.zeros(1)], 10)

    asyncio.run(ask())
    workers.stop()
    assert workers.headroom < FIRST_HEADROOM and workers.pace > 5


def test_several_models_each_under_its_name(shade, threshold, ready):
    with TestClient(application({"shade": shade, "rows": threshold}, language="en")) as client:
        ready(client)
        listed = client.get("/models").json()
        assert [(each["name"], each["task"], each["labels"]) for each in listed] == [
            ("shade", "image", 2),
            ("rows", "table", 2),
        ]
        assert client.post("/models/rows/predict", json={"row": {"size": 1}}).json()["model"] == "threshold"
        assert client.post("/predict", json={"row": {}}).json()["code"] == "upload_not_multipart"
        missing = client.post("/models/none/predict", json={})
        assert (missing.status_code, missing.json()["code"]) == (404, "model_unknown")
        assert client.post("/models/rows/explain").json()["code"] == "explain_pictures_only"
        assert client.post("/models/rows/reload").json()["code"] == "reload_needs_key"
        text = client.get("/metrics").text
        assert 'path="/models/rows/predict"' in text and 'fromzero_batch_size_count{model="rows"}' in text


def test_a_card_runs_one_batch_at_a_time(shade):
    """The others decode meanwhile; on a CPU each worker runs its own sample."""
    workers = Workers(2)
    assert hosted("shade", shade, workers).lane.slots == workers.threads > 1
    shade.device = "cuda"
    assert hosted("shade", shade, workers).lane.slots == 1


def test_heat_map(shade):
    import io

    from PIL import Image

    half = Image.new("L", (16, 16), 128)
    half.paste(255, (0, 0, 8, 16))
    stream = io.BytesIO()
    half.save(stream, "PNG")
    with TestClient(application(shade, language="en")) as client:
        answer = client.post("/explain?label=bright", files={"file": stream.getvalue()}).json()
        assert answer["label"] == "bright" and answer["seconds"] > 0
        grid = np.array(answer["grid"])
        assert grid.min() >= 0 and grid.max() <= 1 and grid[:, 0].mean() > grid[:, -1].mean()
        assert client.post("/explain?label=x", files={"file": b""}).json()["code"] == "label_unknown"
        assert client.post("/explain", files={"file": b"junk"}).json()["code"] == "image_unknown"


def test_keys(threshold):
    with TestClient(application(threshold, keys=(b"one", b"two"), language="en")) as client:
        row = {"json": {"row": {}}}
        for headers in ({}, {"x-api-key": "tw"}, {"authorization": "Bearer three"}, {"authorization": "Basic two"}):
            answer = client.post("/predict", headers=headers, **row)
            assert (answer.status_code, answer.json()["code"]) == (401, "key_wrong")
        for headers in ({"x-api-key": "two"}, {"authorization": "bearer one"}):
            assert client.post("/predict", headers=headers, **row).status_code == 200
        assert client.get("/models").status_code == 401
        assert client.get("/").status_code == client.get("/healthz").status_code == 200


def test_keys_come_from_flags_file_and_environment(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# ours\nthree\n\n")
    assert access.keys(["one"], file, {"FROMZERO_API_KEYS": "two, one"}) == (b"one", b"two", b"three")
    file.write_text("# none\n")
    for each in (file, tmp_path / "missing"):
        with pytest.raises(UsageError):
            access.keys([], each, {})


def test_rates(threshold):
    with TestClient(application(threshold, rate=access.rate("3/m"), language="en")) as client:
        answers = [client.post("/predict", json={"row": {}}) for _ in range(5)]
        assert [each.status_code for each in answers] == [200, 200, 200, 429, 429]
        assert answers[3].json()["code"] == "rate_exceeded" and 1 <= int(answers[3].headers["retry-after"]) <= 20
        assert client.get("/healthz").status_code == 200
    for word in ("", "3", "0/s", "x/s", "3/d", "inf/s", "nan/s"):
        with pytest.raises(UsageError):
            access.rate(word)


def test_other_sites_may_ask_only_where_that_was_said(threshold):
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    with TestClient(application(threshold)) as client:
        assert "access-control-allow-origin" not in client.get("/healthz", headers=asked).headers
    with TestClient(application(threshold, origins=("https://a.example",))) as client:
        allowed = client.options("/predict", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        other = client.get("/healthz", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


posix = pytest.mark.skipif(sys.platform == "win32", reason="forks and sends POSIX signals")


def test_a_damaged_model_is_not_called_unchanged(artifact, tmp_path, ready):
    served = tmp_path / "served"
    shutil.copytree(artifact, served)
    with TestClient(application({"shades": served}, keys=(b"key",), language="en")) as client:
        client.headers["x-api-key"] = "key"
        assert ready(client).post("/models/shades/reload").json()["changed"] is False
        (served / json.loads((served / "artifact.json").read_text())["file"]).write_bytes(b"broken")
        answer = client.post("/models/shades/reload")
        assert answer.status_code == 409 and answer.json()["code"] == "reload_failed"
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "words", [["--max-upload", "0"], ["--max-batch", "0"], ["--workers", "-1"], ["--cors", "example.org"]]
)
def test_values_that_mean_nothing_are_refused(artifact, words, capsys):
    assert main(["serve", str(artifact), *words]) == 2
    assert "bad_arguments" in capsys.readouterr().err


@posix
@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_a_new_version_taken_up(artifact, tmp_path):
    """The parent holds the port: kill -9 of the worker, then another version of the files and SIGHUP, then the end."""
    served = tmp_path / "served"
    shutil.copytree(artifact, served)
    command = [sys.executable, "-m", "fromzero", "serve", str(served), "--port", "0", "--lang", "en"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = re.search(r"http://\S+/", process.stdout.readline())[0]

            def told(path):
                with urllib.request.urlopen(url + path, timeout=30) as answer:
                    return json.load(answer)

            (before,) = told("models")
            (worker,) = children(process.pid)
            os.kill(worker, signal.SIGKILL)
            assert told("models")[0]["version"] == before["version"]
            assert children(process.pid) != [worker]
            wait_for(lambda: told("models")[0]["ready"])
            about = json.loads((served / "artifact.json").read_text())
            (served / "artifact.json").write_text(json.dumps({**about, "edition": 2}))
            process.send_signal(signal.SIGHUP)
            wait_for(lambda: told("models")[0]["version"] != before["version"])
            process.terminate()
            _, errors = process.communicate(timeout=20)
            assert process.returncode == 0 and "SIGKILL" in errors and "exchanged" in errors
        finally:
            process.kill()


@posix
@pytest.mark.slow
def test_a_worker_that_cannot_start_any_more_does_not_end_the_others(artifact, tmp_path):
    served = tmp_path / "served"
    shutil.copytree(artifact, served)
    model = served / json.loads((served / "artifact.json").read_text())["file"]
    whole = model.read_bytes()
    command = [sys.executable, "-m", "fromzero", "serve", str(served), "--port", "0", "--workers", "2", "--lang", "en"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = re.search(r"http://\S+/", process.stdout.readline())[0]
            wait_for(lambda: len(children(process.pid)) == 2)
            time.sleep(3)  # both have opened it
            model.write_bytes(b"broken")
            first, other = children(process.pid)
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: set(children(process.pid)) == {other})
            time.sleep(1)
            assert urllib.request.urlopen(url + "models", timeout=30).status == 200
            model.write_bytes(whole)
            wait_for(lambda: len(set(children(process.pid)) - {first, other}) == 1)
            process.terminate()
            _, errors = process.communicate(timeout=20)
            assert process.returncode == 0 and "could not start; 1 go on" in errors
        finally:
            process.kill()


def children(pid):
    import psutil

    return [each.pid for each in psutil.Process(pid).children()]


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def artifact(tmp_path):
    """A model that answers by the mean of a picture."""
    import hashlib

    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path / "artifact"
    folder.mkdir()
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["colours"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["colours", "axes"], ["mean"], keepdims=0),
            helper.make_node("Softmax", ["mean"], ["scores"], axis=-1),
        ],
        "mean",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 16, 16, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    about = {
        "format": "onnx",
        "model": "cnn",
        "task": "image",
        "file": "model.onnx",
        "labels": ["red", "green", "blue"],
        "preprocessing": {"size": 16, "channels": 3, "crop": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3},
        "sha256": {"model.onnx": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()},
    }
    (folder / "artifact.json").write_text(json.dumps(about))
    return folder
