"""What `fromzero data check` finds of planted faults: `python benchmarks/check.py [--data DIR] [--stamps DIR]`.

10,000 real pictures (the test part of Fashion-MNIST) get damaged files, copies, copies under another label and near
copies of every kind; the same pictures are judged by perceptual hashes at their usual thresholds. A false alarm is a
picture in a pair of near copies that was not planted, though some of these are real near copies that the data set came
with. Wrong labels are planted into all 70,000 pictures. `--stamps` names a folder of colour pictures (the Debian
package tuxpaint-stamps-default, unpacked). `--growth` measures 1,000, 10,000 and 100,000 pictures.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from fromzero.data.check import check
from fromzero.data.checks import pictures
from fromzero.data.folder import looks_of, scan
from fromzero.data.images import decode
from fromzero.data.manifest import Manifest
from fromzero.data.sources.get import get
from fromzero.data.suspects import find
from fromzero.errors import UnreadableImage

EACH = 200  # near copies of a kind
COPIES, CONFLICTS, CORRUPT = 200, 100, 50  # exact copies, copies under another label, damaged files of a kind
NOISE = 0.05
GROWTH = (1_000, 10_000, 100_000)
Planted = list[tuple[str, str]]  # an original and its copy


class Judge(NamedTuple):
    """`found` counts the planted pairs that are seen, `strange` the pictures in pairs that were not planted, given the
    original of every copy."""

    name: str
    found: Callable[[Planted], int]
    strange: Callable[[dict[str, str]], int]


Save = tuple[Image.Image, str, dict[str, int]]  # a picture, the ending of its name and how it is encoded


def _resized(picture: Image.Image, draw: np.random.Generator, least: float, most: float) -> Save:
    factor = draw.uniform(least, most)
    size = max(8, round(picture.width * factor)), max(8, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.BICUBIC), ".png", {}


def _cropped(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Each side loses up to a tenth, one of them at least 3 %."""
    while (cut := draw.uniform(0, 0.1, 4)).max() < 0.03:
        pass
    width, height = picture.size
    left, top, right, bottom = cut * (width, height, width, height)
    return picture.crop((round(left), round(top), width - round(right), height - round(bottom)))


def _brighter(picture: Image.Image, draw: np.random.Generator) -> Save:
    return ImageEnhance.Brightness(picture).enhance(draw.choice((0.8, 0.9, 1.1, 1.2))), ".png", {}


NEAR: dict[str, Callable[[Image.Image, np.random.Generator], Save]] = {
    "JPEG quality 75": lambda picture, draw: (picture, ".jpg", {"quality": 75}),
    "JPEG quality 50": lambda picture, draw: (picture, ".jpg", {"quality": 50}),
    "resized 0.5-0.9": lambda picture, draw: _resized(picture, draw, 0.5, 0.9),
    "resized 1.1-1.5": lambda picture, draw: _resized(picture, draw, 1.1, 1.5),
    "cropped 3-10 %": lambda picture, draw: (_cropped(picture, draw), ".png", {}),
    "cropped, old size": lambda picture, draw: (_cropped(picture, draw).resize(picture.size), ".png", {}),
    "brightness +-20 %": _brighter,
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) * 6 // 10],
    "text": lambda content: b"<html>404 not found</html>\n",
    "header flipped": lambda content: bytes(each ^ 0x55 for each in content[:24]) + content[24:],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Fashion-MNIST, as `fromzero data get` writes it")
    parser.add_argument("--stamps", type=Path, help="a folder of colour pictures")
    parser.add_argument("--growth", action="store_true", help="time against size (writes 100,000 files)")
    options = parser.parse_args()
    print(f"# What `data check` finds, {date.today()}, {_machine()}")
    packages = ", ".join(f"{name} {version(name)}" for name in ("fromzero", "numpy", "imagehash"))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(f"Python {platform.python_version()}, {packages}\n")
    with tempfile.TemporaryDirectory(prefix="fromzero-check-") as scratch:
        work = Path(scratch)
        data = get("fashion-mnist", options.data or work / "fashion-mnist")
        files = sorted((data / "test").glob("*/*.png"))
        _faults("10,000 pictures of Fashion-MNIST", files, work / "fashion", EACH)
        if options.stamps:
            _faults("colour pictures", _stamps(options.stamps, work / "stamps"), work / "colour", 60)
        _noise(data)
        if options.growth:
            _growth(data, work)
    return 0


def _faults(title: str, files: list[Path], folder: Path, each: int) -> None:
    draw = np.random.default_rng(0)
    copy = _Copies(files, folder, draw)
    copy.originals()
    before = _found_pairs(folder)
    corrupt = {name: copy.damaged(name, make, min(CORRUPT, each)) for name, make in DAMAGE.items()}
    same, torn = copy.equal(min(COPIES, each)), copy.torn(min(CONFLICTS, each))
    near = {name: copy.near(name, make, each) for name, make in NEAR.items()}
    start, cpu = time.perf_counter(), time.process_time()
    manifest = scan(folder)
    scanned = time.perf_counter()
    report = check(manifest)
    took = time.perf_counter() - scanned, time.process_time() - cpu
    print(
        f"## {title}: {len(manifest)} files, scan {scanned - start:.1f} s, check {took[0]:.1f} s, CPU {took[1]:.1f} s"
    )
    print("\n| planted | count | found |\n|---|---|---|")
    bad = {entry["file"] for entry in report.findings["corrupt"]}
    for name, planted in corrupt.items():
        print(f"| corrupt: {name} | {len(planted)} | {_share(sum(each in bad for each in planted), len(planted))} |")
    for name, kind, planted in (
        ("exact duplicate", "exact_duplicates", same), ("under another label", "conflicting_labels", torn),
    ):  # fmt: skip
        groups = [set(entry["files"]) for entry in report.findings[kind] if not entry.get("near")]
        hits = sum(any(set(pair) <= group for group in groups) for pair in planted)
        print(f"| {name} | {len(planted)} | {_share(hits, len(planted))} |")
    alarms = len(bad - {each for planted in corrupt.values() for each in planted})
    print(f"\nFalse alarms among corrupt files: {alarms}.\n")
    judges: list[Judge] = [_ours(report.findings["near_duplicates"]), *_hashes(folder, manifest)]
    print(f"| near copies | {' | '.join(each.name for each in judges)} |\n|---|{'---|' * len(judges)}")
    for name, planted in near.items():
        print(f"| {name} | {' | '.join(_share(each.found(planted), len(planted)) for each in judges)} |")
    all_planted = [pair for planted in near.values() for pair in planted]
    print(f"| all | {' | '.join(_share(each.found(all_planted), len(all_planted)) for each in judges)} |")
    wrong = (_share(each.strange(copy.source), len(manifest)) for each in judges)
    print(f"| false alarms (pictures) | {' | '.join(wrong)} |")
    print(f"\nNear copies that fromzero sees among the originals before anything is planted: {before} groups.\n")


class _Copies:
    """Files with planted faults in `folder/class/`; `source` tells the original of each file."""

    def __init__(self, files: list[Path], folder: Path, draw: np.random.Generator) -> None:
        self.files, self.folder, self.draw = files, folder, draw
        self.source: dict[str, str] = {}
        self.order = iter(draw.permutation(len(files)).tolist() * 3)
        self.classes = sorted({each.parent.name for each in files})

    def name(self, file: Path) -> str:
        return f"{file.parent.name}/{file.name}"

    def originals(self) -> None:
        for name in self.classes:
            (self.folder / name).mkdir(parents=True)
        for file in self.files:
            shutil.copyfile(file, self.folder / self.name(file))

    def _next(self, count: int) -> Iterator[Path]:
        for _ in range(count):
            place = next(self.order, None)
            if place is None:
                raise SystemExit(f"{len(self.files)} pictures are too few to plant every fault into another one")
            yield self.files[place]

    def damaged(self, kind: str, make: Callable[[bytes], bytes], count: int) -> list[str]:
        made = []
        for file in self._next(count):
            path = self.folder / file.parent.name / f"{file.stem} {kind}.png"
            path.write_bytes(make(file.read_bytes()))
            made.append(path.relative_to(self.folder).as_posix())
        return made

    def equal(self, count: int) -> list[tuple[str, str]]:
        return [self._copy(file, file.parent.name, "copy") for file in self._next(count)]

    def torn(self, count: int) -> list[tuple[str, str]]:
        made = []
        for file in self._next(count):
            others = [each for each in self.classes if each != file.parent.name]
            made.append(self._copy(file, str(self.draw.choice(others)), "elsewhere"))
        return made

    def _copy(self, file: Path, label: str, kind: str) -> tuple[str, str]:
        name = f"{label}/{file.stem} {kind}.png"
        shutil.copyfile(file, self.folder / name)
        self.source[name] = self.name(file)
        return self.name(file), name

    def near(
        self, kind: str, make: Callable[[Image.Image, np.random.Generator], Save], count: int
    ) -> list[tuple[str, str]]:
        made = []
        for file in self._next(count):
            picture, ending, how = make(decode(file), self.draw)
            name = f"{file.parent.name}/{file.stem} {kind.replace('%', 'percent')}{ending}"
            picture.save(self.folder / name, **how)
            self.source[name] = self.name(file)
            made.append((self.name(file), name))
        return made


def _found_pairs(folder: Path) -> int:
    return len(check(scan(folder)).findings["near_duplicates"])


def _all_pairs(names: list[str]) -> Iterator[tuple[str, str]]:
    return ((one, other) for at, one in enumerate(names) for other in names[at + 1 :])


def _ours(entries: list[dict[str, Any]]) -> Judge:
    pairs = {frozenset(pair) for entry in entries for pair in _all_pairs(entry["files"])}

    def strange(source: dict[str, str]) -> int:
        return len({name for pair in pairs if len({source.get(each, each) for each in pair}) > 1 for name in pair})

    return Judge("fromzero", lambda planted: sum(frozenset(pair) in pairs for pair in planted), strange)


def _hashes(folder: Path, manifest: Manifest) -> Iterator[Judge]:
    """Perceptual hashes: equal phash is what cleanvision calls near duplicates, 10 of 64 bits is imagededup's threshold
    and 4 a cautious one. A pair that is equal to the byte is no alarm."""
    import imagehash

    rows = manifest.good()
    names = [manifest.name(row) for row in rows]
    place = {name: at for at, name in enumerate(names)}
    for kind, limits in (("phash", (0, 4, 10)), ("dhash", (0, 4, 10))):
        made = np.empty(len(names), np.uint64)
        for at, name in enumerate(names):
            with Image.open(folder / name) as picture:
                made[at] = np.packbits(getattr(imagehash, kind)(picture.convert("L")).hash).view(np.uint64)[0]
        for most in limits:
            yield _hash_judge(f"{kind} <= {most}", made, place, manifest["hash"][rows], most)


def _hash_judge(name: str, made: np.ndarray, place: dict[str, int], content: np.ndarray, most: int) -> Judge:
    def found(planted: Planted) -> int:
        ends = np.array([[place[one], place[other]] for one, other in planted])
        return int((np.bitwise_count(made[ends[:, 0]] ^ made[ends[:, 1]]) <= most).sum())

    def strange(source: dict[str, str]) -> int:
        origin = np.array([place.get(source.get(each, each), -1) for each in place])
        alarms = 0
        for at in range(0, len(made), 512):
            part = slice(at, at + 512)
            close = np.bitwise_count(made[part, None] ^ made) <= most
            close &= (origin[part, None] != origin) & (content[part, None] != content)
            alarms += int(close.any(1).sum())
        return alarms

    return Judge(name, found, strange)


def _stamps(source: Path, folder: Path) -> list[Path]:
    """The colour pictures of a folder, at most 256 pixels wide, labelled by the topmost folder; one of each content."""
    seen: set[bytes] = set()
    made = []
    for number, file in enumerate(sorted(source.rglob("*.png"))):
        try:
            picture = decode(file)
        except UnreadableImage:
            continue
        picture.thumbnail((256, 256))
        if picture.tobytes() in seen:
            continue
        seen.add(picture.tobytes())
        label = folder / file.relative_to(source).parts[0]
        label.mkdir(parents=True, exist_ok=True)
        picture.save(label / f"{number:05d}.png")
        made.append(label / f"{number:05d}.png")
    return made


def _noise(data: Path) -> None:
    manifest = scan(data)
    print(f"## Wrong labels: {NOISE:.0%} changed by lot\n")
    print(f"| pictures | changed | suspects | precision | recall | suggested right | CPU s |\n|{'---|' * 7}")
    for part in ("test", "all"):
        rows = np.flatnonzero(manifest["given"] == part) if part == "test" else manifest.good()
        for noise in (0.0, NOISE):
            draw = np.random.default_rng(0)
            labels = manifest["label"][rows].astype(int)
            changed = draw.choice(len(rows), round(len(rows) * noise), replace=False)
            truth = labels.copy()
            labels[changed] = (labels[changed] + draw.integers(1, 10, len(changed))) % 10
            start = time.process_time()
            found = find(pictures.described(looks_of(manifest), rows), labels)
            took = time.process_time() - start
            wrong = set(changed.tolist())
            hits = [(row, suggested) for row, suggested, _ in found if row in wrong]
            right = sum(truth[row] == suggested for row, suggested in hits)
            cells = (
                _share(len(hits), len(found)), _share(len(hits), len(wrong)), _share(right, len(hits)),
            ) if noise else ("-", "-", "-")  # fmt: skip
            print(f"| {len(rows)} | {len(wrong)} | {len(found)} | {' | '.join(cells)} | {took:.1f} |")
    print()


def _growth(data: Path, work: Path) -> None:
    """Time and memory against size, each in a process of its own; beyond 70,000 the pictures are mirrored."""
    files = sorted(data.glob("*/*/*.png"))
    np.random.default_rng(0).shuffle(files)  # type: ignore[arg-type]
    print("## Growth\n\n| pictures | scan s | check s | CPU s | most memory MiB |\n|---|---|---|---|---|")
    for size in GROWTH:
        folder = work / f"growth-{size}"
        for number in range(size):
            file = files[number % len(files)]
            target = folder / file.parent.name / f"{number:06d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            if number < len(files):
                shutil.copyfile(file, target)
            else:
                with Image.open(file) as picture:
                    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(target)
        child = os.fork()
        if child == 0:
            start, cpu = time.perf_counter(), time.process_time()
            manifest = scan(folder)
            scanned = time.perf_counter()
            check(manifest)
            now = time.perf_counter()
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            cells = (size, f"{scanned - start:.1f}", f"{now - scanned:.1f}", f"{time.process_time() - cpu:.1f}", most)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        shutil.rmtree(folder)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _machine() -> str:
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main())
