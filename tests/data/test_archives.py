"""Unpacking: what a good archive holds comes out whole, and a hostile one leaves nothing, inside its folder or out."""

import bz2
import gzip
import io
import json
import lzma
import os
import stat
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest

from fromzero.data.sources import archives
from fromzero.data.sources.archives import Limits, is_archive, unpacked
from fromzero.errors import DataError, DiskError, UsageError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
TREE = {"猫/1.png": PNG, "猫/2.png": PNG + b"2", "dog/1.png": PNG + b"3"}


def zip_of(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def tar_of(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as packed:
        for name, content in members.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content) if info.isreg() else 0
            packed.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def files_in(folder):
    found = {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}
    return {name: content for name, content in found.items() if not name.startswith(".fromzero")}


# --- good archives --------------------------------------------------------------------------------------------------

MAKERS = {
    "a.zip": zip_of,
    "a.tar": lambda path, tree: tar_of(path, tree, "w"),
    "a.tar.gz": tar_of,
    "a.tgz": tar_of,
    "a.tar.bz2": lambda path, tree: tar_of(path, tree, "w:bz2"),
    "a.tar.xz": lambda path, tree: tar_of(path, tree, "w:xz"),
    "stored.zip": lambda path, tree: zip_of(path, tree, zipfile.ZIP_STORED),
    "lzma.zip": lambda path, tree: zip_of(path, tree, zipfile.ZIP_LZMA),
    "no-ending": zip_of,
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_form(tmp_path, name):
    path = MAKERS[name](tmp_path / name, TREE)
    assert is_archive(path)
    folder = unpacked(path)
    assert folder.parent == tmp_path and files_in(folder) == TREE
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, folder.name])


def test_found_again_without_a_second_look(tmp_path, monkeypatch):
    path = zip_of(tmp_path / "a.zip", TREE)
    folder = unpacked(path)
    (folder / "猫" / "1.png").unlink()  # cleaned by its owner: must not come back
    monkeypatch.setattr(archives, "sha256_of", lambda path: pytest.fail("read again"))
    assert unpacked(path) == folder and not (folder / "猫" / "1.png").exists()


def test_found_again_by_its_content_after_a_touch(tmp_path):
    path = zip_of(tmp_path / "a.zip", TREE)
    folder = unpacked(path)
    (folder / "猫" / "1.png").unlink()
    os.utime(path, ns=(1, 1))
    assert unpacked(path) == folder and not (folder / "猫" / "1.png").exists()


def test_another_archive_of_the_same_name_goes_beside(tmp_path):
    first = unpacked(zip_of(tmp_path / "a.zip", TREE))
    path = zip_of(tmp_path / "a.zip", {"x/1.png": PNG, "y/1.png": PNG})
    second = unpacked(path)
    assert files_in(first) == TREE and set(files_in(second)) == {"x/1.png", "y/1.png"}
    assert second.name.startswith("a-") and unpacked(path) == second


def test_what_lies_there_is_not_touched(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    path = zip_of(tmp_path / "a.zip", TREE)
    assert unpacked(path) != tmp_path / "a" and os.listdir(tmp_path / "a") == ["mine.txt"]
    with pytest.raises(UsageError) as caught:
        unpacked(path, tmp_path / "a")
    assert caught.value.code == "archive_place_taken"


def test_to_a_place_of_choice(tmp_path):
    (tmp_path / "empty").mkdir()
    path = zip_of(tmp_path / "a.zip", TREE)
    assert files_in(unpacked(path, tmp_path / "empty")) == TREE
    assert files_in(unpacked(path, tmp_path / "deep" / "er")) == TREE


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["top/a/1.png", "top/b/1.png"], ["a/1.png", "b/1.png"]),
        (["one/two/a/1.png", "one/two/b/1.png"], ["a/1.png", "b/1.png"]),
        (["top/train/a/1.png", "top/train/b/1.png"], ["train/a/1.png", "train/b/1.png"]),
        (["cats/1.png", "cats/2.png"], ["cats/1.png", "cats/2.png"]),
        (["top/reviews.csv"], ["reviews.csv"]),
        (["top/a/1.png", "readme.txt"], ["readme.txt", "top/a/1.png"]),
        (["top/a/1.png", "top/b/1.png", "__MACOSX/top/._1.png", "top/.DS_Store"], ["a/1.png", "b/1.png"]),
    ],
)
def test_the_single_folder_at_the_top(tmp_path, names, wanted):
    folder = unpacked(zip_of(tmp_path / "a.zip", dict.fromkeys(names, PNG)))
    assert sorted(files_in(folder)) == wanted


def test_state_of_ours_in_an_archive_is_not_trusted(tmp_path):
    tree = TREE | {
        ".fromzero/manifest.json": b"{}",
        ".FromZero/x": b"",
        ".fromzero-archive": b"{}",
        "猫/.fromzero/archive.json": b"{}",
    }
    folder = unpacked(zip_of(tmp_path / "a.zip", tree))
    assert files_in(folder) == TREE and not (folder / ".fromzero").exists()
    assert json.loads((folder / ".fromzero-archive").read_text(encoding="utf-8"))["files"] == 3


class RawNamed(zipfile.ZipInfo):
    """A member whose name is these bytes and whose flag says nothing of UTF-8."""

    __slots__ = ("raw",)

    def _encodeFilenameFlags(self):  # noqa: N802
        return self.raw, 0


def raw_named_zip(path, names, extra=b""):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as packed:
        warnings.simplefilter("ignore")  # a name that comes twice
        for name in names:
            info = RawNamed("x")
            info.raw, info.extra = name, extra
            packed.writestr(info, PNG)
    return path


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("gbk", ["小狗/图片 1.png", "猫/照片.png"]),
        ("gb18030", ["训练/龘.png", "训练/样本甲乙丙丁.png"]),
        ("utf-8", ["小狗/1.png", "猫/2.png"]),
        ("cp437", ["für/été.png", "für/ñandú.png"]),
    ],
)
def test_names_of_other_systems(tmp_path, encoding, names):
    path = raw_named_zip(tmp_path / "a.zip", [each.encode(encoding) for each in names])
    assert sorted(files_in(unpacked(path, tmp_path / "out"))) == sorted(names)


def test_the_name_field_of_info_zip(tmp_path):
    raw, meant = "？.png".encode("gbk"), "かな/é.png"
    body = b"\1" + struct.pack("<L", zlib.crc32(raw)) + meant.encode()
    path = raw_named_zip(tmp_path / "a.zip", [raw], struct.pack("<HH", 0x7075, len(body)) + body)
    assert list(files_in(unpacked(path, tmp_path / "out"))) == [meant]


def test_gbk_names_in_a_tar(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", encoding="gbk", format=tarfile.GNU_FORMAT) as packed:
        info = tarfile.TarInfo("小狗/图片.png")
        info.size = len(PNG)
        packed.addfile(info, io.BytesIO(PNG))
    assert list(files_in(unpacked(path))) == ["小狗/图片.png"]


def test_modes_are_ours(tmp_path):
    info = tarfile.TarInfo("a/run.csv")
    info.mode = 0o4777
    folder = unpacked(tar_of(tmp_path / "a.tgz", {info: b"x"}))
    assert not (folder / "run.csv").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)


def test_many_members(tmp_path):
    path = tar_of(tmp_path / "a.tar", {f"c{n % 3}/{n}.txt": b"" for n in range(3000)}, "w")
    assert len(files_in(unpacked(path))) == 3000


# --- hostile archives -----------------------------------------------------------------------------------------------


def zip_with_mode(path, mode):
    with zipfile.ZipFile(path, "w") as packed:
        info = zipfile.ZipInfo("link")
        info.external_attr = mode << 16
        packed.writestr(info, "/etc/passwd")
    return path


def encrypted(path):
    """The flag is what says so: the content need not be so."""
    content = bytearray(zip_of(path, {"a.png": PNG}).read_bytes())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(magic) + offset] |= 1
    path.write_bytes(content)
    return path


def method(path, number):
    content = bytearray(zip_of(path, {"a.png": PNG}).read_bytes())
    for magic, offset in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        content[content.index(magic) + offset] = number
    path.write_bytes(content)
    return path


def cut(path, make, share):
    content = make(path, TREE | {"big/x.bin": os.urandom(50_000)}).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def flipped(path, make):
    content = bytearray(make(path, {"a/x.bin": os.urandom(50_000)}).read_bytes())
    content[25_000] ^= 0xFF
    path.write_bytes(content)
    return path


def overlapping(path):
    """Two entries of the directory that name the same bytes."""
    content = zip_of(path, {"a.bin": os.urandom(40_000)}, zipfile.ZIP_STORED).read_bytes()
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry = content[start:end]
    tail = bytearray(content[end:])
    tail[8:10] = tail[10:12] = struct.pack("<H", 40)
    tail[12:16] = struct.pack("<L", 40 * len(entry))
    path.write_bytes(content[:start] + entry * 40 + tail)
    return path


def lying_size(path):
    """The directory says ten bytes; a megabyte comes out."""
    content = bytearray(zip_of(path, {"a.bin": bytes(1 << 20)}).read_bytes())
    at = content.index(b"PK\1\2") + 24
    content[at : at + 4] = struct.pack("<L", 10)
    path.write_bytes(content)
    return path


def sparse(path):
    info = tarfile.TarInfo("hole.bin")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
    info.pax_headers["GNU.sparse.name"] = "hole.bin"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as packed:
        body = b"1\n0\n0\n".ljust(512, b"\0")
        info.size = len(body)
        packed.addfile(info, io.BytesIO(body))
    return path


def long_names(path, count=2000):
    """Headers of long names that follow each other: a reader that recurses falls over."""
    info = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    info.size = 2
    block = info.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")
    path.write_bytes(block * count + bytes(1024))
    return path


def negative_size(path):
    info = tarfile.TarInfo("a.bin")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 11 + b"\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(2048))
    return path


def written(path, content):
    path.write_bytes(content)
    return path


HOSTILE = {
    "zip-parent": ("archive_name", lambda p: zip_of(p / "h.zip", {"ok.png": PNG, "../out.png": PNG})),
    "zip-parent-inside": ("archive_name", lambda p: zip_of(p / "h.zip", {"a/b/../../../out.png": PNG})),
    "zip-absolute": ("archive_name", lambda p: zip_of(p / "h.zip", {"/tmp/out-of-here.png": PNG})),
    "zip-drive": ("archive_name", lambda p: zip_of(p / "h.zip", {"C:/out.png": PNG})),
    "zip-drive-relative": ("archive_name", lambda p: zip_of(p / "h.zip", {"a/c:out.png": PNG})),
    "zip-backslash": ("archive_name", lambda p: zip_of(p / "h.zip", {"..\\out.png": PNG})),
    "zip-share": ("archive_name", lambda p: zip_of(p / "h.zip", {"\\\\host\\share\\out.png": PNG})),
    "zip-parent-folder": ("archive_name", lambda p: zip_of(p / "h.zip", {"ok.png": PNG, "../evil/": b""})),
    "zip-escape-code": ("archive_name", lambda p: zip_of(p / "h.zip", {"a\x1b[2J.png": PNG})),
    "zip-nul": ("archive_name", lambda p: raw_named_zip(p / "h.zip", [b"a.png\0.exe"])),
    "zip-twice": (
        "archive_name",
        lambda p: raw_named_zip(p / "h.zip", [b"a.png", b"a.png"]),
    ),
    "zip-file-and-folder": ("archive_name", lambda p: zip_of(p / "h.zip", {"a": PNG, "a/b.png": PNG})),
    "zip-long": ("archive_name", lambda p: zip_of(p / "h.zip", {"图" * 100 + ".png": PNG})),
    "zip-deep": ("archive_name", lambda p: zip_of(p / "h.zip", {"a/" * 60 + "b.png": PNG})),
    "zip-symlink": ("archive_link", lambda p: zip_with_mode(p / "h.zip", stat.S_IFLNK | 0o777)),
    "zip-device": ("archive_link", lambda p: zip_with_mode(p / "h.zip", stat.S_IFCHR | 0o666)),
    "zip-encrypted": ("archive_encrypted", lambda p: encrypted(p / "h.zip")),
    "zip-method": ("archive_method", lambda p: method(p / "h.zip", 99)),
    "zip-cut": ("archive_cut_off", lambda p: cut(p / "h.zip", zip_of, 0.9)),
    "zip-flipped": ("archive_damaged", lambda p: flipped(p / "h.zip", zip_of)),
    "zip-lying-size": ("archive_damaged", lambda p: lying_size(p / "h.zip")),
    "zip-overlap": ("archive_bomb", lambda p: overlapping(p / "h.zip")),
    "zip-ratio": ("archive_bomb", lambda p: zip_of(p / "h.zip", {"a.bin": bytes(8 << 20)})),
    "zip-many": ("archive_bomb", lambda p: zip_of(p / "h.zip", {f"{n}.png": b"" for n in range(300)})),
    "zip-total": ("archive_bomb", lambda p: zip_of(p / "h.zip", {"a": os.urandom(9 << 20), "b": os.urandom(8 << 20)})),
    "zip-empty": ("archive_empty", lambda p: zip_of(p / "h.zip", {})),
    "zip-folders-only": ("archive_empty", lambda p: zip_of(p / "h.zip", {"a/": b"", "__MACOSX/x": b""})),
    "tar-parent": ("archive_name", lambda p: tar_of(p / "h.tgz", {"../out.png": PNG})),
    "tar-absolute": ("archive_name", lambda p: tar_of(p / "h.tgz", {"/tmp/out-of-here.png": PNG})),
    "tar-symlink": (
        "archive_link",
        lambda p: tar_of(p / "h.tgz", {special("a", tarfile.SYMTYPE, "/tmp"): b"", "a/out.png": PNG}),
    ),
    "tar-hardlink": (
        "archive_link",
        lambda p: tar_of(p / "h.tgz", {special("a", tarfile.LNKTYPE, "/etc/passwd"): b""}),
    ),
    "tar-device": ("archive_link", lambda p: tar_of(p / "h.tgz", {special("a", tarfile.CHRTYPE): b""})),
    "tar-fifo": ("archive_link", lambda p: tar_of(p / "h.tgz", {special("a", tarfile.FIFOTYPE): b""})),
    "tar-sparse": ("archive_link", lambda p: sparse(p / "h.tar")),
    "tar-ratio": ("archive_bomb", lambda p: tar_of(p / "h.tgz", {"a.bin": bytes(8 << 20)})),
    "tar-many": ("archive_bomb", lambda p: tar_of(p / "h.tgz", {f"{n}.png": b"" for n in range(300)})),
    "tar-cut": ("archive_damaged", lambda p: cut(p / "h.tar", MAKERS["a.tar"], 0.9)),
    "tar-cut-between-members": (
        "archive_damaged",
        lambda p: written(p / "h.tar", tar_of(p / "h.tar", {"a.bin": bytes(512)}, "w").read_bytes()[:1024]),
    ),
    "tgz-cut": ("archive_damaged", lambda p: cut(p / "h.tgz", tar_of, 0.9)),
    "tgz-cut-in-its-checksum": (
        "archive_damaged",
        lambda p: written(p / "h.tgz", tar_of(p / "h.tgz", TREE).read_bytes()[:-3]),
    ),
    "tgz-flipped": ("archive_damaged", lambda p: flipped(p / "h.tgz", tar_of)),
    "tbz-flipped": ("archive_damaged", lambda p: flipped(p / "h.tar.bz2", MAKERS["a.tar.bz2"])),
    "txz-flipped": ("archive_damaged", lambda p: flipped(p / "h.tar.xz", MAKERS["a.tar.xz"])),
    "tar-long-names": ("archive_damaged", lambda p: long_names(p / "h.tar")),
    "tar-negative-size": ("archive_damaged", lambda p: negative_size(p / "h.tar")),
    "gz-of-no-tar": ("archive_damaged", lambda p: written(p / "h.tar.gz", gzip.compress(b"text,label\n" * 100))),
    "bz2-of-no-tar": ("archive_damaged", lambda p: written(p / "h.tbz", bz2.compress(b"text"))),
    "xz-of-zeros": ("archive_bomb", lambda p: written(p / "h.txz", lzma.compress(bytes(8 << 20)))),
    "html": ("archive_unknown", lambda p: written(p / "h.zip", b"<html>404</html>")),
    "rar": ("archive_unknown", lambda p: written(p / "h.rar", b"Rar!\x1a\7\1\0" + bytes(500))),
    "nothing": ("archive_unknown", lambda p: written(p / "h.zip", b"")),
}
SMALL = Limits(total=16 << 20, members=200, ratio=50, floor=1 << 20, depth=32)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_leaves_nothing(tmp_path, name):
    code, make = HOSTILE[name]
    place = tmp_path / "in" / "side"
    place.mkdir(parents=True)
    path = make(place)
    with pytest.raises(DataError) as caught:
        unpacked(path, limits=SMALL)
    assert caught.value.code == code, str(caught.value)
    assert str(path) in caught.value.cause and caught.value.fix and caught.value.cause.isprintable()
    assert [each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*") if each.is_file()] == [
        f"in/side/{path.name}"
    ]
    assert os.listdir(place) == [path.name]
    assert not Path("/tmp/out-of-here.png").exists()


def test_a_header_that_would_fill_the_memory(tmp_path):
    """A pax header is read whole before anything is written: the limit counts what is read, too."""
    info = special("x", tarfile.XHDTYPE)
    info.size = 64 << 20
    path = written(tmp_path / "h.tgz", gzip.compress(info.tobuf() + bytes(64 << 20) + bytes(1024), 6))
    with pytest.raises(DataError) as caught:
        unpacked(path, limits=SMALL)
    assert caught.value.code == "archive_bomb"


@pytest.mark.parametrize("make", ["a.zip", "a.tar.gz"])
def test_a_disk_without_room(tmp_path, make):
    path = MAKERS[make](tmp_path / make, TREE)
    with pytest.raises(DiskError) as caught:
        unpacked(path, limits=Limits(reserve=1 << 60))
    assert caught.value.code == "archive_disk" and os.listdir(tmp_path) == [make]


def test_a_place_that_cannot_be_written(tmp_path):
    path = zip_of(tmp_path / "a.zip", TREE)
    with pytest.raises(DiskError):
        unpacked(path, path / "out")


def test_what_a_killed_process_left_is_removed(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = tmp_path / f"a.{done.stdout.strip()}.partial"
    (left / "half").mkdir(parents=True)
    busy = tmp_path / f"a.{os.getppid()}.partial"
    busy.mkdir()
    unpacked(zip_of(tmp_path / "a.zip", TREE))
    assert not left.exists() and busy.exists()


def test_a_killed_process_leaves_no_folder(tmp_path):
    path = zip_of(tmp_path / "a.zip", TREE)
    code = f"""
import os
from fromzero.data.sources import archives
archives._inner = lambda folder: os._exit(9)
archives.unpacked({str(path)!r})
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert not (tmp_path / "a").exists()
    assert files_in(unpacked(path)) == TREE
    assert sorted(os.listdir(tmp_path)) == ["a", "a.zip"]


@pytest.mark.parametrize("mark", ["", "[]", '{"sha256": 3}'])
def test_a_damaged_mark_is_no_mark(tmp_path, mark):
    path = zip_of(tmp_path / "a.zip", TREE)
    folder = unpacked(path)
    (folder / ".fromzero-archive").write_text(mark)
    assert unpacked(path) != folder
    assert json.loads((unpacked(path) / ".fromzero-archive").read_text(encoding="utf-8"))["files"] == 3


def test_what_is_no_archive_by_its_ending(tmp_path):
    for name in ("table.xlsx", "array.npz", "rows.csv.gz", "rows.parquet", "pictures"):
        zip_of(tmp_path / name, TREE) if "." in name else (tmp_path / name).mkdir()
        assert not is_archive(tmp_path / name)
    with pytest.raises(UsageError):
        unpacked(tmp_path / "not there.zip")
