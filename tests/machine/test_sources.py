"""Where wheels come from: mirrors of every layout, a dead host, pip's default index."""

import http.server
import platform
import sys
import threading
from functools import partial

import pytest

from fromzero.errors import SourceError
from fromzero.facts import wheels
from fromzero.machine.detect import Machine
from fromzero.machine.install import choose_wheel
from fromzero.machine.sources import find_source

OWN = f"cp{sys.version_info.major}{sys.version_info.minor}"
PROCESSOR = platform.machine()
DEAD = "http://127.0.0.1:9/whl"  # the discard port: nothing listens there

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of Linux wheels")


@pytest.fixture
def choice():
    return choose_wheel(Machine(os="linux", python="3.12", glibc="2.35"), "2.14")


@pytest.fixture(autouse=True)
def no_host(monkeypatch):
    monkeypatch.setattr(wheels, "WHEEL_HOST", DEAD)
    monkeypatch.delenv("FROMZERO_WHEEL_INDEX", raising=False)


def wheel(name, number, local="+cpu", python=OWN, system=f"manylinux_2_28_{PROCESSOR}"):
    return f"{name}-{number}{local}-{python}-{python}-{system}.whl"


GOOD = (wheel("torch", "2.14.0"), wheel("torch", "2.14.1"), wheel("torchvision", "0.29.1"))
# What must not be taken: other releases, variants, Pythons, systems.
BAD = (
    wheel("torch", "2.15.0"),
    wheel("torch", "2.14.9", "+cu126"),
    wheel("torch", "2.14.9", python="cp27"),
    wheel("torch", "2.14.9", system="win_amd64"),
    wheel("torch", "2.14.9", system="manylinux_2_28_s390x"),
    "torch-2.14.9.tar.gz",
    "torchaudio-2.14.9+cpu-py3-none-any.whl",
)


def page(names):
    """As indexes write them: escaped, with a hash behind."""
    links = (f'<a href="{each.replace("+", "%2B")}#sha256=00">{each}</a><br>' for each in names)
    return "<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>"


@pytest.fixture
def site(tmp_path):
    root = tmp_path / "site"
    root.mkdir()
    handler = partial(_Silent, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield root, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_mirror_laid_out_like_the_host(site, choice):
    root, address = site
    for name in ("torch", "torchvision"):
        folder = root / "cpu" / name
        folder.mkdir(parents=True)
        (folder / "index.html").write_text(page(each for each in (*GOOD, *BAD) if each.startswith(f"{name}-")))
    source, attempts = find_source(choice, (DEAD, address))
    assert source.requirements == ("torch==2.14.1+cpu", "torchvision==0.29.1+cpu")
    assert source.arguments == ("--extra-index-url", f"{address}/cpu")
    assert len(attempts) == 1
    assert "127.0.0.1:9" in attempts[0]


@pytest.mark.parametrize("tail", ["", "/cpu", "/"])
def test_flat_mirror(site, choice, tail):
    root, address = site
    (root / "cpu").mkdir()
    (root / "cpu/index.html").write_text(page((*GOOD, *BAD)))
    source, _ = find_source(choice, (address + tail,))
    assert [each.rsplit("/", 1)[1].split("#")[0].replace("%2B", "+") for each in source.requirements] == list(GOOD[1:])
    assert all(each.startswith(f"{address}/cpu/") for each in source.requirements)


def test_folder_of_wheels(tmp_path, choice, monkeypatch):
    for each in (*GOOD, *BAD):
        (tmp_path / each).touch()
    expected = tuple(str(tmp_path / each) for each in GOOD[1:])
    for given in (str(tmp_path), tmp_path.as_uri()):
        source, _ = find_source(choice, (given,))
        assert source.local
        assert source.requirements == expected
    monkeypatch.setenv("FROMZERO_WHEEL_INDEX", f"{DEAD} {tmp_path}")
    assert find_source(choice)[0].requirements == expected


def test_half_a_pair_is_none(tmp_path, choice):
    (tmp_path / GOOD[0]).touch()
    source, attempts = find_source(choice, (str(tmp_path),))
    assert source.name == "pip"
    assert "2.14" in attempts[0]


def test_default_index_is_last(choice):
    source, attempts = find_source(choice)
    assert (source.name, source.arguments) == ("pip", ())
    assert source.requirements == ("torch==2.14.*", "torchvision==0.29.*")
    assert not source.exact
    assert len(attempts) == 1


def test_variant_that_the_default_index_lacks_is_an_error(choice):
    from fromzero.facts.cards import find_card
    from fromzero.machine.detect import Gpu

    card = find_card("GTX 1080 Ti")
    gpu = Gpu(name=card.title, memory_bytes=card.memory_bytes, capability=card.compute_capability)
    old = choose_wheel(Machine(os="linux", python="3.12", glibc="2.35", driver="580.95", gpus=(gpu,)))
    with pytest.raises(SourceError) as raised:
        find_source(old, ("http://user:secret@127.0.0.1:9/whl",))
    assert len(raised.value.attempts) == 2
    assert "secret" not in str(raised.value)
    assert "--index" in raised.value.fix
