"""Every status the API promises, the answers themselves, and a real server that starts fast and stops cleanly."""

import contextlib
import hashlib
import http.client
import io
import json
import logging
import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import anyio
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient

from fromzero.errors import UsageError
from fromzero.language import catalogue
from fromzero.records import Preprocessing
from fromzero.serving import openapi, uploads
from fromzero.serving.answers import accepted
from fromzero.serving.app import application
from fromzero.serving.server import JsonLines, Together, serve

SIZE = 16


class MeanColour:
    """Says which of three colours a picture has most of; `scores` waits for `gate`."""

    name, task, device = "mean-colour", "image", "cpu"
    labels = ("red", "绿色", "blue")
    preprocessing = Preprocessing(size=SIZE, channels=3, crop=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.fault = None

    def scores(self, batch):
        self.gate.wait(10)
        if self.fault:
            raise self.fault
        sums = batch.reshape(len(batch), -1, 3).mean(1) + 1
        return (sums / sums.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture
def model():
    return MeanColour()


@pytest.fixture
def client(model):
    with TestClient(application(model, language="en", target=math.inf)) as client:
        yield client


def picture(colour=(250, 0, 0), size=(40, 30), kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def send(client, *contents, **more):
    return client.post("/predict", files=[("file", (f"{i}.png", each)) for i, each in enumerate(contents)], **more)


def test_one_picture(client):
    answer = send(client, picture((0, 0, 250)))
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"predictions", "model", "seconds"}
    assert body["predictions"][0]["label"] == "blue"
    scores = [each["score"] for each in body["predictions"]]
    assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1, abs=1e-5)
    assert body["model"] == "mean-colour" and 0 < body["seconds"] < 5


def test_five_predictions_at_most():
    class Many(MeanColour):
        labels = tuple("abcdefgh")

        def scores(self, batch):
            return np.tile(np.float32([1, 2, 3, 4, 5, 6, 7, 8]) / 36, (len(batch), 1))

    with TestClient(application(Many())) as client:
        predictions = send(client, picture()).json()["predictions"]
    assert [each["label"] for each in predictions] == list("hgfed")


def test_several_pictures_keep_their_order_and_a_bad_one_its_reason(client):
    body = send(client, picture((250, 0, 0)), b"", picture((0, 250, 0))).json()
    assert set(body) == {"results", "model", "seconds"}
    first, bad, last = body["results"]
    assert first["name"] == "0.png" and first["predictions"][0]["label"] == "red"
    assert (bad["name"], bad["code"]) == ("1.png", "image_empty") and "empty" in bad["message"]
    assert last["predictions"][0]["label"] == "绿色"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_formats(client, kind):
    assert send(client, picture(kind=kind)).json()["predictions"][0]["label"] == "red"


def test_field_without_a_file_name_is_a_picture_too(client):
    body = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + picture() + b"\r\n--x--\r\n"
    answer = client.post("/predict", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.json()["predictions"][0]["label"] == "red"


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"code", "message"}
    assert answer.json()["code"] == code
    assert answer.json()["message"]


def test_refusals(client):
    form = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/predict"), 415, "upload_not_multipart")
    refused(client.post("/predict", json={}), 415, "upload_not_multipart")
    refused(client.post("/predict", data={"file": "x"}), 415, "upload_not_multipart")
    refused(client.post("/predict", files={"image": b"x"}), 422, "upload_without_file")
    refused(client.post("/predict", content=b"", headers=form), 400, "upload_malformed")
    refused(client.post("/predict", content=b"junk", headers=form), 400, "upload_malformed")
    refused(
        client.post("/predict", content=b"x", headers={"content-type": "multipart/form-data"}), 400, "upload_malformed"
    )
    unchosen = b'--x\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--x--\r\n'
    refused(client.post("/predict", content=unchosen, headers=form), 422, "upload_without_file")
    cut = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    refused(client.post("/predict", content=cut, headers=form), 400, "upload_malformed")
    refused(send(client, b""), 422, "image_empty")
    refused(send(client, picture()[:60]), 422, "image_damaged")
    assert send(client, picture(size=(1, 500_000))).status_code == 200  # a strip: only its middle is resized
    refused(send(client, *[b"x"] * 33), 413, "upload_too_many")
    refused(client.get("/nothing/here"), 404, "path_unknown")
    refused(client.get("/predict/"), 404, "path_unknown")
    refused(client.post("/healthz"), 405, "method_not_allowed")
    wrong_method = client.get("/predict")
    refused(wrong_method, 405, "method_not_allowed")
    assert wrong_method.headers["allow"] == "POST"
    refused(client.options("/predict"), 405, "method_not_allowed")


def test_too_large_by_announcement_and_by_count(model):
    with TestClient(application(model, max_bytes=5000)) as client:
        refused(send(client, b"x" * 6000), 413, "upload_too_large")
        form = {"content-type": "multipart/form-data; boundary=x"}
        chunks = (b"x" * 1000 for _ in range(7))
        refused(client.post("/predict", content=chunks, headers=form), 413, "upload_too_large")
        expecting = {**form, "content-length": "6000", "expect": "100-continue"}
        refused(client.post("/predict", content=b"", headers=expecting), 413, "upload_too_large")
        assert send(client, picture()).status_code == 200


def request_of(*messages):
    """A multipart request whose body arrives as `messages`, then stays silent."""
    left = list(messages)

    async def receive():
        if left:
            return left.pop(0)
        await anyio.sleep_forever()

    return Request({"type": "http", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]}, receive)


def outcome_of(intake, request):
    async def take():
        async with intake.body(request) as body:
            assert intake.held == len(body)
            return body

    try:
        return anyio.run(take)
    except UsageError as error:
        return error.code


def part(content, more=True):
    return {"type": "http.request", "body": content, "more_body": more}


def test_intake_bounds_time_and_memory_and_forgets_nothing(monkeypatch):
    intake = uploads.Intake(max_bytes=100, max_held=150)
    assert outcome_of(intake, request_of(part(b"a" * 60), part(b"b" * 40, False))) == b"a" * 60 + b"b" * 40
    assert outcome_of(intake, request_of(part(b"a" * 60), part(b"b" * 41, False))) == "upload_too_large"
    assert outcome_of(intake, request_of(*[part(b"a" * 60)] * 99)) == "upload_too_large"  # does not read on for ever
    assert outcome_of(intake, request_of(part(b"a" * 60), {"type": "http.disconnect"})) == "upload_cut_off"
    monkeypatch.setattr(uploads, "PATIENCE", 0.05)
    assert outcome_of(intake, request_of(part(b"a" * 60))) == "upload_too_slow"
    intake.held = 100
    assert outcome_of(intake, request_of(part(b"a" * 60, False))) == "server_busy"
    assert intake.held == 100


RECORD = {"name": "m", "model": "m", "task": "image", "labels": 3, "version": "", "ready": True}


def test_each_code_has_its_status_and_its_words():
    rows = catalogue()
    for code in (*openapi.STATUS, *openapi.SAMPLE_CODES, "server_failed", "server_not_ready"):
        assert f"error.{code}" in rows and f"error.{code}.fix" in rows
    described = openapi.document("en", [RECORD], max_bytes=1, keys=True)["paths"]
    statuses = {status for path in described.values() for each in path.values() for status in each["responses"]}
    assert {int(status) for status in statuses} >= {200, 422, 500, 503, *openapi.STATUS.values()} - {403, 404}


def test_messages_speak_the_language_of_the_client(client):
    def told(**more):
        return send(client, b"", **more).json()["message"]

    assert "is empty" in told()
    assert "空文件" in told(headers={"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"})
    assert "空文件" in told(params={"lang": "zh"}, headers={"accept-language": "en"})
    assert "is empty" in told(params={"lang": "../../x"})


def test_accept_language_is_read_by_weight():
    assert accepted("fr, en;q=0.3, zh-TW;q=0.7") == "zh"
    assert accepted("zh;q=0, en") == "en"
    assert accepted("fr, *;q=0.1") is None
    assert accepted(";q=x,,;;,en;q=nan,") in (None, "en")


def test_readiness_follows_the_warm_up(model, ready):
    model.gate.clear()
    with TestClient(application(model)) as client:
        refused(client.get("/readyz"), 503, "server_not_ready")
        assert client.get("/healthz").json() == {"status": "alive"}
        model.gate.set()
        ready(client)
        told = client.get("/readyz").json()
        assert (told["status"], told["model"]) == ("ready", "mean-colour") and told["capacity"]["model"] > 1


@pytest.mark.parametrize("fault", [RuntimeError("broken"), None])
def test_model_that_fails_its_warm_up_is_never_ready(model, fault):
    model.fault = fault
    if fault is None:
        model.scores = lambda batch: np.full((1, 3), np.nan, np.float32)
    with TestClient(application(model)) as client:
        time.sleep(0.1)
        refused(client.get("/readyz"), 503, "server_not_ready")
        assert client.get("/healthz").status_code == 200


def test_health_is_answered_while_the_model_works(client, model, ready):
    ready(client)
    model.gate.clear()
    answers = []
    senders = [threading.Thread(target=lambda: answers.append(send(client, picture()))) for _ in range(8)]
    for each in senders:
        each.start()
    time.sleep(0.1)
    started = time.monotonic()
    assert client.get("/healthz").status_code == 200
    assert time.monotonic() - started < 1
    assert not answers
    model.gate.set()
    for each in senders:
        each.join(10)
    assert [each.status_code for each in answers] == [200] * 8


def test_a_bug_of_ours_gives_a_number_not_a_traceback(client, model, caplog, ready):
    ready(client)
    model.fault = RuntimeError("secret detail")
    answer = send(client, picture(), headers={"x-request-id": "abc-1"})
    refused(answer, 500, "server_failed")
    assert "abc-1" in answer.text and "secret" not in answer.text and "Traceback" not in answer.text
    assert answer.headers["x-request-id"] == "abc-1"
    record = next(each for each in caplog.records if each.exc_info)
    logged = json.loads(JsonLines().format(record))
    assert logged["request"] == "abc-1" and "secret detail" in logged["traceback"]
    model.fault = None
    assert send(client, picture()).status_code == 200


def test_request_ids_are_echoed_if_they_are_safe(client):
    assert client.get("/healthz", headers={"x-request-id": "job-7.a_B"}).headers["x-request-id"] == "job-7.a_B"
    for given in ("", "a b", "x" * 129, '"}', "é".encode()):
        made = client.get("/healthz", headers={"x-request-id": given}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{16}", made)


def test_log_has_one_json_line_for_each_request(client, caplog):
    caplog.set_level(logging.INFO, "fromzero.serving")
    send(client, picture(), headers={"x-request-id": "r1"})
    lines = [json.loads(JsonLines().format(each)) for each in caplog.records if each.message == "request"]
    (line,) = [each for each in lines if each["request"] == "r1"]
    assert (line["method"], line["path"], line["status"], line["event"]) == ("POST", "/predict", 200, "request")
    assert line["seconds"] > 0 and line["level"] == "info" and line["time"].endswith("Z")


def test_metrics_count_each_application_apart(client, model):
    send(client, picture(), b"")
    send(client, b"")
    client.get("/invented/1")
    client.get("/invented/2")
    text = client.get("/metrics").text
    assert 'fromzero_requests_total{path="/predict",status="200"} 1.0' in text
    assert 'fromzero_requests_total{path="/predict",status="422"} 1.0' in text
    assert 'fromzero_requests_total{path="other",status="404"} 2.0' in text
    assert 'fromzero_samples_total{outcome="classified"} 1.0' in text
    assert 'fromzero_samples_total{outcome="refused"} 2.0' in text
    assert 'fromzero_request_seconds_count{path="/predict"} 2.0' in text
    with TestClient(application(model)) as other:
        assert "fromzero_samples_total{" not in other.get("/metrics").text


def test_openapi_describes_what_is_served(client):
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    for path, methods in described["paths"].items():
        for method in methods:
            assert client.request(method.upper(), path).status_code not in (404, 405)
    text = json.dumps(described)
    for reference in re.findall(r'"#/([\w/]+)"', text):
        place = described
        for step in reference.split("/"):
            place = place[step]
    chinese = client.get("/openapi.json?lang=zh").json()
    assert chinese["paths"].keys() == described["paths"].keys()
    assert chinese["paths"]["/predict"]["post"]["summary"] != described["paths"]["/predict"]["post"]["summary"]


# ---- the real server ----


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["colours"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["colours", "axes"], ["mean"], keepdims=0),
            helper.make_node("Div", ["mean", "scale"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        ],
        "mean colour",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(np.float32(32), "scale")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    description = {
        "format": "onnx",
        "model": "cnn",
        "file": "model.onnx",
        "labels": ["red", "green", "blue"],
        "preprocessing": {"size": SIZE, "channels": 3, "crop": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3},
        "sha256": {"model.onnx": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()},
    }
    (folder / "artifact.json").write_text(json.dumps(description))
    return folder


posix = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


@contextlib.contextmanager
def running(artifact, *flags):
    command = [sys.executable, "-m", "fromzero", "serve", str(artifact), "--port", "0", "--lang", "en", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, re.search(r"http://\S+/", process.stdout.readline())[0]
        finally:
            process.kill()


def form(content):
    return b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + content + b"\r\n--x--\r\n"


def upload(url, content):
    request = urllib.request.Request(
        f"{url}predict", form(content), {"content-type": "multipart/form-data; boundary=x"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@posix
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_server_answers_and_stops_gracefully(artifact, stop):
    with running(artifact) as (process, url):
        status, answer = upload(url, picture((0, 250, 0)))
        assert status == 200 and answer["predictions"][0]["label"] == "green"
        assert upload(url, b"x" * (30 << 20))[0] == 413
        assert upload(url, b"junk")[0] == 422
        process.send_signal(stop)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 0, errors
    assert "ssh -L" in errors and "Traceback" not in errors
    logged = [json.loads(line) for line in errors.splitlines() if line.startswith("{") and '"status"' in line]
    assert [each["status"] for each in logged] == [200, 413, 422]


@posix
def test_upload_in_flight_is_answered_before_the_end(artifact):
    with running(artifact, "--quiet") as (process, url):
        host, port = re.search(r"//(.+):(\d+)/", url).groups()
        content = picture((0, 0, 250))
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        body = head + content + b"\r\n--x--\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body[:50]
            )
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(body[50:])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b" 200 OK" in answer and b'"blue"' in answer
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 0 and errors == ""


@posix
@pytest.mark.parametrize("workers", ["0", "2"])
def test_who_sends_without_a_pause_loses_nothing_at_the_end(artifact, workers):
    """Every request on a living connection is answered; the last answer says that the connection ends."""
    kind, body = "multipart/form-data; boundary=x", form(picture((0, 0, 250)))
    ends, lost = [], []

    def visitor(address):
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            while True:
                connection.request("POST", "/predict", body, {"content-type": kind})
                answer = connection.getresponse()
                answer.read()
                if answer.headers.get("connection") == "close":
                    ends.append(answer.status)
                    return
        except OSError as error:
            lost.append(error)

    with running(artifact, "--quiet", "--workers", workers) as (process, url):
        visitors = [threading.Thread(target=visitor, args=(url.split("/")[2],)) for _ in range(8)]
        for each in visitors:
            each.start()
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        for each in visitors:
            each.join(10)
        process.communicate(timeout=10)
    assert lost == [] and ends == [200] * 8


def test_starts_without_torch(artifact):
    program = (
        "import sys; from fromzero.predicting import open_classifier; from fromzero.serving import server;"
        "from fromzero.serving.app import application; application(open_classifier(sys.argv[1]));"
        "heavy = {'torch', 'matplotlib', 'timm', 'jinja2'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program, str(artifact)], check=True)


def test_taken_port_names_a_free_one(artifact):
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError) as caught:
            serve(artifact, port=taken.getsockname()[1])
    assert caught.value.code == "port_in_use"
    free = int(re.search(r"--port (\d+)", caught.value.fix)[1])
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", free))


@pytest.mark.parametrize(
    ("where", "code"),
    [({"port": 70000}, "port_invalid"), ({"port": -1}, "port_invalid"), ({"host": "203.0.113.9"}, "host_unusable")],
)
def test_unusable_addresses(artifact, where, code):
    with pytest.raises(UsageError) as caught:
        serve(artifact, **where)
    assert caught.value.code == code


def test_lines_are_written_together_and_warnings_at_once(capsys, monkeypatch):
    def logger(seconds):
        monkeypatch.setattr("fromzero.serving.server.LOG_SECONDS", seconds)
        handler = Together()
        handler.setFormatter(JsonLines())
        made = logging.Logger("said")
        made.addHandler(handler)
        return made

    said = logger(60)
    for number in range(3):
        said.info("request", extra={"fields": {"number": number}})
    assert capsys.readouterr().err == ""
    said.warning("late")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [each.get("number") for each in lines] == [0, 1, 2, None]  # in order, none twice
    logger(0.01).info("request")
    over = time.monotonic() + 10
    written = ""
    while not written and time.monotonic() < over:
        time.sleep(0.02)
        written = capsys.readouterr().err
    assert json.loads(written)["event"] == "request"
