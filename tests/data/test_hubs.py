"""Data sets of the hubs, against a server of this test that answers as Hugging Face's does.

The hub's client reads its address and its offline switch when it is imported, so it runs in a process of its own.
"""

import http.server
import json
import os
import subprocess
import sys
import threading
import types
import urllib.parse

import pytest

from fromzero.data.sources import hubs
from fromzero.data.sources.get import get
from fromzero.errors import SourceError, UsageError

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "data/train-00000.parquet": b"PAR1" + bytes(5000),
    "data/test.csv": b"text,label\na,b\n",
    "images/cat/1.png": b"png",
    "loader.py": b"raise SystemExit('must not be fetched')",
    "weights.pkl": b"must not be fetched",
}
WANTED = sorted(each for each in FILES if not each.endswith((".py", ".pkl")))


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.asked.append(path)
        about = {"id": "owner/name", "sha": SHA, "cardData": {"license": "mit"}}
        about["siblings"] = [{"rfilename": name, "size": len(content)} for name, content in FILES.items()]
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": f"{number:040x}"}
            for number, (name, content) in enumerate(FILES.items())
        ]
        name = path.partition(f"/datasets/owner/name/resolve/{SHA}/")[2]
        if path.startswith(("/api/datasets/owner/name/tree/", "/api/datasets/owner/name/paths-info/")):
            self.answer(json.dumps(tree).encode())
        elif path.startswith("/api/datasets/owner/name"):
            self.answer(json.dumps(about).encode())
        elif name in FILES:
            content = FILES[name]
            self.answer(content[: self.server.most], f'"{list(FILES).index(name):040x}"')
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, content, tag=""):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        if tag:
            self.send_header("ETag", tag)
            self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.most = [], 1 << 30
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetched(address, name, folder, *flags):
    """`fromzero data get NAME` in a process whose hub is at `address`."""
    pytest.importorskip("huggingface_hub")
    settings = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "no_proxy": "*"}
    settings |= {"HF_HOME": str(folder.parent / "hf"), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "fromzero", "data", "get", name, "--to", str(folder), *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, timeout=100)
    return done.returncode, done.stdout.strip(), done.stderr


def test_the_files_of_one_commit(server, tmp_path):
    address = f"http://127.0.0.1:{server.server_address[1]}"
    code, out, err = fetched(address, "hf:owner/name", tmp_path / "数据")
    assert code == 0, err
    assert out == str(tmp_path / "数据") and "mit" in err and "127.0.0.1" in err
    found = [each for each in (tmp_path / "数据").rglob("*") if each.is_file() and each.name != ".fromzero-source"]
    assert sorted(each.relative_to(tmp_path / "数据").as_posix() for each in found) == WANTED
    assert all(each.read_bytes() == FILES[each.relative_to(tmp_path / "数据").as_posix()] for each in found)
    mark = json.loads((tmp_path / "数据" / ".fromzero-source").read_text(encoding="utf-8"))
    assert mark["name"] == "hf:owner/name" and mark["revision"] == SHA
    assert not (tmp_path / "数据.partial").exists()
    server.asked.clear()
    assert get("hf:owner/name", tmp_path / "数据", offline=True) == tmp_path / "数据" and server.asked == []


def test_a_file_that_is_cut_off_does_not_pass(server, tmp_path):
    server.most = 1000
    code, out, err = fetched(f"http://127.0.0.1:{server.server_address[1]}", "hf:owner/name", tmp_path / "out")
    assert code == 1 and out == "" and not (tmp_path / "out").exists(), err


def test_a_name_the_hub_does_not_know(server, tmp_path):
    code, _, err = fetched(f"http://127.0.0.1:{server.server_address[1]}", "hf:owner/other", tmp_path / "out")
    assert code == 1 and "refused owner/other" in err and not (tmp_path / "out").exists()


def test_a_hub_that_does_not_answer(tmp_path):
    code, _, err = fetched("http://127.0.0.1:9", "hf:owner/name", tmp_path / "out")
    assert code == 1 and "127.0.0.1:9 did not give owner/name" in err and "HF_ENDPOINT" in err
    assert "Traceback" not in err and not (tmp_path / "out").exists()


def test_offline_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(hubs, "snapshot", lambda *_: pytest.fail("asked"))
    for name in ("hf:owner/name", "ms:owner/name"):
        with pytest.raises(SourceError) as caught:
            get(name, tmp_path / "out", offline=True)
        assert caught.value.code == "no_source" and "--offline" in caught.value.cause


@pytest.mark.parametrize("name", ["hf:name", "hf:a/b/c", "ms:/name", "hf:../name", "hf:owner/"])
def test_names_of_another_form(tmp_path, name):
    with pytest.raises(UsageError):
        get(name, tmp_path / "out")


# ModelScope's client is not among what fromzero brings: what it is asked, and what becomes of its answers.


def client_of(monkeypatch, fetch):
    module = types.ModuleType("modelscope.hub.snapshot_download")
    module.dataset_snapshot_download = fetch
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_modelscope(tmp_path, monkeypatch):
    asked = []

    def fetch(dataset_id, revision=None, local_dir=None, allow_file_pattern=None):
        asked.append((dataset_id, revision, "*.parquet" in allow_file_pattern, "*.py" in allow_file_pattern))
        os.makedirs(os.path.join(local_dir, ".msc"))
        with open(os.path.join(local_dir, "train.jsonl"), "w") as file:
            file.write("{}\n")

    client_of(monkeypatch, fetch)
    folder = get("ms:owner/name@v2", tmp_path / "out")
    assert asked == [("owner/name", "v2", True, False)]
    assert sorted(os.listdir(folder)) == [".fromzero-source", "train.jsonl"]
    assert get("ms:owner/name@v2", tmp_path / "out") == folder and len(asked) == 1


def test_modelscope_without_data_or_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "mirror.example")
    client_of(monkeypatch, lambda *_, **words: None)
    with pytest.raises(SourceError) as caught:
        get("ms:owner/name", tmp_path / "out")
    assert caught.value.code == "hub_nothing"

    def fetch(*_, **words):
        raise ConnectionError("no route")

    client_of(monkeypatch, fetch)
    with pytest.raises(SourceError) as caught:
        get("ms:owner/name", tmp_path / "out")
    assert caught.value.code == "hub_unreachable" and "mirror.example" in caught.value.cause
    assert not (tmp_path / "out").exists()


def test_modelscope_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(SourceError) as caught:
        get("ms:owner/name", tmp_path / "out")
    assert caught.value.code == "hub_package" and "pip install modelscope" in caught.value.fix
