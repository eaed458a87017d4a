"""Schemathesis over the description of the API: what it allows is accepted, what it forbids refused, and every answer
is described."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn

from fromzero.machine.process import free_port
from fromzero.serving.app import application

pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow
# Bytes and cells that the description allows can still be no picture and no value of the column, and models that were
# given in memory, or without keys, cannot be reloaded. In a form everything is bytes: there is no wrong type to send.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 403, 409, 413, 415, 422, 429]
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]
[[operations]]
include-path-regex = "^/(models/shade/)?(predict|explain)$"
checks.negative_data_rejection.enabled = false
"""


@contextlib.contextmanager
def served(app):
    """The address of the application behind a real socket."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", server_header=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not (server.started and all(each.ready for each in app.state.service.models.values())):
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("keys", [(), (b"secret",)], ids=["open", "keys"])
def test_schemathesis_finds_nothing(tmp_path, keys, shade, threshold):
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    app = application({"shade": shade, "rows": threshold}, keys=keys, language="en")
    with served(app) as address:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json"]
        flags = ["--max-examples", "25", "--seed", "1", "--no-color"]
        told = [part for key in keys for part in ("-H", f"X-API-Key: {key.decode()}")]
        done = subprocess.run(
            [*command, *flags, *told],
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"(\d{3,}) generated, \1 passed", done.stdout), done.stdout[-2000:]
