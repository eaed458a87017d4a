"""A file is the old one or the new one, whole; a full disk is a sentence."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from fromzero.errors import DiskError
from fromzero.files import replacing, sync, write_json, write_text


def test_json_is_written_whole(tmp_path):
    path = tmp_path / "值.json"
    write_json(path, {"name": "猫", "values": [1, 2.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "猫", "values": [1, 2.5, None]}
    assert "猫" in path.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["值.json"]


def test_a_new_file_takes_the_place_of_the_old(tmp_path):
    write_text(tmp_path / "x", "old and long")
    write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_block_that_fails_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(DiskError if error is OSError else error), replacing(path) as beside:
        beside.write_text("half")
        raise error("stop")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "x", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "x", object())
    assert json.loads((tmp_path / "x").read_text()) == [1]


def test_a_reader_never_sees_half_a_file(tmp_path):
    """Another process reads as fast as it can while the file is replaced again and again."""
    path = tmp_path / "x.json"
    write_json(path, {"filler": "0" * 200_000})
    code = textwrap.dedent(f"""
        import json, pathlib, sys
        path = pathlib.Path({str(path)!r})
        print("ready", flush=True)
        for _ in range(400):
            assert len(json.loads(path.read_text())["filler"]) == 200_000
    """)
    reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    reader.stdout.readline()
    digit = 0
    while reader.poll() is None:
        digit = (digit + 1) % 10
        write_json(path, {"filler": str(digit) * 200_000})
    assert reader.returncode == 0
    reader.stdout.close()


def test_no_folder_to_write_to(tmp_path):
    with pytest.raises(DiskError) as caught:
        write_text(tmp_path / "nowhere" / "deep" / "x", "text")
    assert str(tmp_path / "nowhere" / "deep" / "x") in caught.value.cause
    assert "GiB" in caught.value.cause


def test_a_relative_path_can_be_wrong_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    with pytest.raises(DiskError):
        write_text(Path("nowhere") / "x", "text")


def test_sync_takes_a_file_of_any_content(tmp_path):
    (tmp_path / "x").write_bytes(b"content")
    sync(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_full_disk_keeps_the_old_file(tmp_path):
    """A limit on the size of files stands for the full disk: the system's answer comes in the same place."""
    path = tmp_path / "x"
    path.write_text("old")
    code = textwrap.dedent(f"""
        import pathlib, resource
        from fromzero.errors import DiskError
        from fromzero.files import write_text
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(pathlib.Path({str(path)!r}), "new " * 10_000)
        except DiskError as error:
            print(error.code)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "disk", done.stderr
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
