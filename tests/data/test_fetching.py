"""Downloads by address against a server of this test: whole, resumed, altered, refused, gone; and the package tools."""

import hashlib
import http.server
import os
import re
import threading
import zipfile

import pytest

from fromzero.data.sources import fetching
from fromzero.data.sources.fetching import Package, download, sha256_given
from fromzero.data.sources.get import get
from fromzero.errors import DataError, SourceError, UsageError
from fromzero.terminal import Console

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Gives `content` at every path but /gone; sends at most `most` bytes an answer; `ranges` says whether it can
    resume."""

    content, most, ranges = CONTENT, 1 << 30, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and server.ranges else 0
        server.asked.append((self.path, start))
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        if start >= len(server.content):
            self.send_error(416)
            return
        rest = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        self.wfile.write(rest[: server.most])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_whole_file(server, tmp_path):
    path = download(f"{server.address}/a.bin?key=x", DIGEST, tmp_path / "deep" / "a.bin", Console())
    assert path.read_bytes() == CONTENT and os.listdir(path.parent) == ["a.bin"]


def test_a_broken_line_goes_on_where_it_stopped(server, tmp_path):
    server.most = 300_000
    path = download(f"{server.address}/a.bin", DIGEST, tmp_path / "a.bin", Console())
    assert path.read_bytes() == CONTENT
    assert [start for _, start in server.asked] == [0, 300_000, 600_000, 900_000]


def test_what_came_is_kept_for_the_next_call(server, tmp_path):
    server.most = 1000
    with pytest.raises(SourceError) as caught:
        download(f"{server.address}/a.bin", DIGEST, tmp_path / "a.bin", Console())
    assert caught.value.code == "url_unreachable" and "127.0.0.1" in caught.value.cause
    assert os.listdir(tmp_path) == ["a.bin.partial"]
    server.most = 1 << 30
    download(f"{server.address}/a.bin", DIGEST, tmp_path / "a.bin", Console())
    assert server.asked[-1] == ("/a.bin", 1000 * fetching.TRIES) and os.listdir(tmp_path) == ["a.bin"]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "a.bin.partial").write_bytes(b"begun elsewhere")
    assert download(f"{server.address}/a.bin", DIGEST, tmp_path / "a.bin", Console()).read_bytes() == CONTENT


def test_a_partial_file_that_is_whole_already(server, tmp_path):
    (tmp_path / "a.bin.partial").write_bytes(CONTENT)
    assert download(f"{server.address}/a.bin", DIGEST, tmp_path / "a.bin", Console()).read_bytes() == CONTENT


@pytest.mark.parametrize("begun", [b"", b"other bytes"])
def test_another_file_is_kept_aside_and_not_trusted(server, tmp_path, begun):
    if begun:
        (tmp_path / "a.bin.partial").write_bytes(begun)
    else:
        server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataError) as caught:
        download(f"{server.address}/a.bin", DIGEST, tmp_path / "a.bin", Console())
    assert caught.value.code == "wrong_hash" and DIGEST in caught.value.cause
    assert os.listdir(tmp_path) == ["a.bin.wrong"]


def test_refused_and_gone(server, tmp_path):
    with pytest.raises(SourceError) as caught:
        download(f"{server.address}/gone?token=abcdefgh", DIGEST, tmp_path / "a", Console())
    assert "404" in caught.value.cause and "abcdefgh" not in str(caught.value) and len(server.asked) == 1
    with pytest.raises(SourceError) as caught:
        download("http://127.0.0.1:9/a", DIGEST, tmp_path / "a", Console())
    assert "127.0.0.1" in caught.value.cause and os.listdir(tmp_path) == []


def test_an_archive_at_an_address_is_unpacked_once(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for name in ("a/1.png", "b/1.png"):
            packed.writestr(name, b"x")
    server.content = (tmp_path / "x.zip").read_bytes()
    digest = hashlib.sha256(server.content).hexdigest()
    folder = get(f"{server.address}/some/pets.zip", sha256=digest.upper())
    assert folder.as_posix() == "data/pets" and (folder / "a" / "1.png").is_file()
    assert get(f"{server.address}/some/pets.zip", sha256=digest, offline=True) == folder
    assert len(server.asked) == 1 and os.listdir("data") == ["pets"]


def test_a_file_at_an_address(server, tmp_path):
    path = get(f"{server.address}/rows.csv", tmp_path / "out", sha256=DIGEST)
    assert path == tmp_path / "out" / "rows.csv" and path.read_bytes() == CONTENT
    assert get(f"{server.address}/rows.csv", tmp_path / "out", sha256=DIGEST) == path and len(server.asked) == 1
    with pytest.raises(SourceError):
        get(f"{server.address}/rows.csv", tmp_path / "other", sha256=DIGEST, offline=True)
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["/../../x.csv", "/%2e%2e%2fx.csv", "/..%5Cx.csv", "/"])
def test_an_address_cannot_lead_out_of_the_folder(server, tmp_path, name):
    path = get(f"{server.address}{name}", tmp_path / "out", sha256=DIGEST)
    assert path.parent == tmp_path / "out" and os.listdir(tmp_path) == ["out"]


def test_an_address_without_a_checksum_is_not_asked(server):
    for given in (None, "", "abc", "g" * 64):
        with pytest.raises(UsageError) as caught:
            get(f"{server.address}/a.csv", sha256=given)
        assert caught.value.code == "no_sha256"
    assert server.asked == []
    assert sha256_given(f" sha256:{DIGEST.upper()}\n") == DIGEST


def test_a_checksum_without_an_address():
    with pytest.raises(UsageError) as caught:
        get("reuters-r8", sha256=DIGEST)
    assert caught.value.code == "sha256_without_address"


def test_other_kinds_of_address(tmp_path):
    for address in ("file:///etc/passwd", "ftp://host/a.csv"):
        with pytest.raises(UsageError) as caught:
            get(address, tmp_path, sha256=DIGEST)
        assert caught.value.code == "address_kind"


def test_tools_that_are_missing_or_fail(tmp_path, monkeypatch):
    package = Package("no-such-package-anywhere", "0", "no.tar.gz", DIGEST)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(OSError, match="no-such-package-anywhere"):
        fetching.from_pypi(package, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for fetch, tool in ((fetching.from_npm, "npm"),):
        with pytest.raises(FileNotFoundError, match=tool):
            fetch(package, tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get"):
        fetching.from_debian("x", tmp_path)
