"""The data path beside its rivals, and how it grows.

    python benchmarks/data.py [decode] [loader] [opening] [memory] [growth] [features] [accuracy]

Without a word, all of them. Times are CPU seconds (of the process and its children), the smallest of several
interleaved rounds; every table ends with ratios. Rivals that are not installed are left out by name (litdata,
webdataset, timm). The photographs are scikit-learn's two, resized; nothing is fetched.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fromzero.data.augment import random_box, varied
from fromzero.data.batches import training_batches
from fromzero.data.folder import scan
from fromzero.data.load import Pictures
from fromzero.data.manifest import state_folder
from fromzero.data.split import split
from fromzero.records import Preprocessing

SIZE = 224
ROUNDS = 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HOW = Preprocessing(size=SIZE, channels=3, crop=0.875, mean=MEAN, std=STD)
PHOTOS, BATCH = 384, 32
FILES = 300_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--data", type=Path, help="a copy of Fashion-MNIST")
    parser.add_argument("--pictures", type=int, default=3000, help="for the accuracy")
    parser.add_argument("--files", type=int, default=FILES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, {date.today()}, Python {platform.python_version()}, {versions()}")
    for part in options.parts or PARTS:
        print(f"\n{part}", flush=True)
        PARTS[part](options)


def versions() -> str:
    from importlib import metadata

    names = ("torch", "torchvision", "pillow", "simplejpeg", "timm", "litdata", "webdataset")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def best(runs: dict[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, float]:
    """The fewest CPU seconds a picture of each, rounds interleaved; a run returns how many pictures it made."""
    found = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = cpu_seconds()
            count = run()
            found[name] = min(found[name], (cpu_seconds() - start) / count)
    return found


def photo(size: tuple[int, int], number: int = 0, quality: int = 90) -> bytes:
    """A real photograph at `size`, mirrored and shifted by its number so that no two are the same."""
    from sklearn.datasets import load_sample_images

    base = Image.fromarray(load_sample_images().images[number % 2])
    rng = np.random.default_rng(number)
    left, top = rng.integers(0, 60), rng.integers(0, 40)
    part = base.crop((left, top, left + 560, top + 380)).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    part.save(file, "JPEG", quality=quality)
    return file.getvalue()


# --- one core: from the bytes of a JPEG to an augmented tensor --------------------------------------------------------


def decode(options: argparse.Namespace) -> None:
    import simplejpeg

    for size, count in (((500, 375), 120), ((4000, 3000), 4)):
        photos = [photo(size, number) for number in range(4)]
        kib = sum(map(len, photos)) / 4096

        def each(make: Callable[[bytes, int], Any], photos: list[bytes] = photos, count: int = count) -> int:
            for number in range(count):
                make(photos[number % 4], number)
            return count

        runs = {
            "torchvision, PIL": lambda: each(lambda c, _: tensors(Image.open(io.BytesIO(c)).convert("RGB"))),
            "full decode alone (libjpeg-turbo)": lambda: each(lambda c, _: simplejpeg.decode_jpeg(c)),
            "fromzero, uint8": lambda: each(lambda c, n: varied(c, HOW, "crop-flip", np.random.default_rng(n))),
        }
        found = best(runs)
        print(f"{size[0]}x{size[1]}, {kib:.0f} KiB: CPU ms a picture")
        for name, seconds in found.items():
            print(f"  {name:36s} {seconds * 1e3:8.2f}   {found['torchvision, PIL'] / seconds:5.2f}x torchvision")
        share = found["full decode alone (libjpeg-turbo)"] / found["fromzero, uint8"]
        print(f"  share of a full decode: {share:.2f};  parity: {parity(photos)}")


def parity(photos: list[bytes]) -> str:
    """The same crop of the same photograph, ours from the JPEG and Pillow's antialiased resize of the whole decode."""
    apart = []
    for number, content in enumerate(photos * 3):
        whole = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").save(whole, "PNG", compress_level=0)
        pair = [varied(each, HOW, "crop-flip", np.random.default_rng(number)) for each in (content, whole.getvalue())]
        apart.append(np.abs(pair[0].astype(int) - pair[1]))
    values = np.stack(apart)
    return f"mean difference {values.mean():.2f} of 255, 99th percentile {np.quantile(values, 0.99):.0f}"


# --- whole loaders ----------------------------------------------------------------------------------------------------


def loader(options: argparse.Namespace) -> None:
    """Two workers, one epoch of photographs to batches; CPU time a picture."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for number in range(PHOTOS):
            folder = root / "set" / f"class{number % 4}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:05d}.jpg").write_bytes(photo((500, 375), number))
        runs: dict[str, Callable[[], int]] = {
            "torchvision DataLoader": lambda: drained(torchvision_loader(root / "set"))
        }
        for name, make in (("timm", timm_loader), ("webdataset", webdataset_loader), ("litdata", litdata_loader)):
            try:
                __import__(name)
            except ImportError:
                print(f"  {name}: not installed, left out")
                continue
            runs[name] = lambda make=make: drained(make(root))  # type: ignore[misc]
        manifest = split(scan(root / "set"), (0.98, 0.01, 0.01))
        rows = manifest.good()
        pictures = Pictures(manifest, HOW, "crop-flip")
        for workers in (1, 2, 4):
            runs[f"fromzero, {workers} threads"] = lambda workers=workers: drained(  # type: ignore[misc]
                training_batches(pictures, rows, BATCH, 0, 0, workers, pin=False)
            )
        prepare_rivals(root)
        torch.multiprocessing.set_start_method("fork", force=True)  # litdata changes it, and starting is not compared
        found = best(runs)
        for name, seconds in found.items():
            ratio = found[name] / found["fromzero, 2 threads"]
            print(f"  {name:28s} {seconds * 1e3:6.2f} CPU ms a picture   fromzero takes 1/{ratio:.2f} of it")


def drained(batches: Any) -> int:
    return sum(len(batch[0]) for batch in batches)


@functools.cache
def usual() -> Any:
    """What most people run."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=(0.35, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def tensors(picture: Image.Image) -> Any:
    return usual()(picture)


def torchvision_loader(root: Path) -> Any:
    from torchvision.datasets import ImageFolder

    found = ImageFolder(str(root), tensors)
    return torch.utils.data.DataLoader(found, BATCH, shuffle=True, num_workers=2, drop_last=True)


def timm_loader(root: Path) -> Any:
    from timm.data import create_dataset, create_loader

    found = create_dataset("", str(root / "set"))
    return create_loader(found, (3, SIZE, SIZE), BATCH, is_training=True, num_workers=2, use_prefetcher=False)


def prepare_rivals(root: Path) -> None:
    import tarfile

    with tarfile.open(root / "set.tar", "w") as shard:
        for number, path in enumerate(sorted((root / "set").rglob("*.jpg"))):
            for suffix, content in (("jpg", path.read_bytes()), ("cls", path.parent.name[-1].encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    try:
        import litdata
    except ImportError:
        return
    paths = [str(each) for each in sorted((root / "set").rglob("*.jpg"))]
    litdata.optimize(litdata_sample, paths, str(root / "lit"), num_workers=1, chunk_bytes="16MB")


def litdata_sample(path: str) -> dict[str, Any]:
    return {"image": Path(path).read_bytes(), "label": int(Path(path).parent.name[-1])}


def webdataset_loader(root: Path) -> Any:
    import webdataset

    found = webdataset.WebDataset(str(root / "set.tar"), shardshuffle=False, workersplitter=lambda s: s)
    found = found.shuffle(100).decode("pil").to_tuple("jpg", "cls").map_tuple(tensors, int).slice(PHOTOS // 2)
    return webdataset.WebLoader(found.batched(BATCH), batch_size=None, num_workers=2)


def litdata_loader(root: Path) -> Any:
    import litdata

    class Photos(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            sample = super().__getitem__(index)
            return tensors(Image.open(io.BytesIO(sample["image"])).convert("RGB")), sample["label"]

    return litdata.StreamingDataLoader(Photos(str(root / "lit"), shuffle=True), batch_size=BATCH, num_workers=2)


# --- does it train as well? -------------------------------------------------------------------------------------------


def accuracy(options: argparse.Namespace) -> None:
    """The same network on the same draws: crops of JPEGs decoded smaller, and Pillow's crops of the whole picture.

    Fashion-MNIST's pictures, enlarged to 448 pixels and saved as JPEG, so that the smaller decode is really taken."""
    import fromzero.data.load as load
    from fromzero.data.sources.get import get
    from fromzero.starting import train

    source = scan(get("fashion-mnist", options.data), quick=True)
    ours = load.varied
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "set"
        rows = np.random.default_rng(0).permutation(source.good())[: options.pictures]
        for row in rows.tolist():
            folder = root / source.classes[source["label"][row]]
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.open(source.folder / source["path"][row]).resize((448, 448), Image.Resampling.BICUBIC)
            picture.convert("RGB").save(folder / f"{row:05d}.jpg", quality=90)
        for seed in range(3):
            found = {}
            for name, make in (("fromzero", ours), ("Pillow", by_pillow)):
                load.varied = make
                run = train(
                    root,
                    model="cnn",
                    imgsz=64,
                    epochs=6,
                    batch=64,
                    lr=2e-3,
                    augmentation="crop-flip",
                    seed=seed,
                    output=Path(scratch) / f"{name}-{seed}",
                    device="cpu",
                )
                found[name] = run.record()["best"]["val_accuracy"]
            load.varied = ours
            print(f"  seed {seed}: best validation accuracy " + ", ".join(f"{n} {a:.2%}" for n, a in found.items()))


def by_pillow(content: bytes, how: Preprocessing, policy: str, rng: np.random.Generator, name: str = "") -> np.ndarray:
    """`varied` for "crop-flip" as one would write it with Pillow, drawing the same numbers."""
    if policy != "crop-flip":
        return varied(content, how, policy, rng, name)
    picture = Image.open(io.BytesIO(content)).convert("L" if how.channels == 1 else "RGB")
    left, top, width, height = random_box(picture.size, rng)
    part = picture.resize((how.size, how.size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    array = np.asarray(part).reshape(how.size, how.size, how.channels)
    return array[:, ::-1] if rng.random() < 0.5 else array


# --- a frozen backbone ------------------------------------------------------------------------------------------------


def features(options: argparse.Namespace) -> None:
    """Ten epochs of a frozen ResNet-18 at 128 pixels: its features once, or at every step."""
    import fromzero.training as training
    from fromzero import starting

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "set"
        for number in range(PHOTOS):
            folder = root / f"class{number % 4}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:05d}.jpg").write_bytes(photo((500, 375), number))
        took = {}
        cached = training.frozen_head
        for name, head in (("at every step", lambda model: None), ("once", cached)):
            training.frozen_head = head
            start = cpu_seconds()
            starting.train(
                root,
                model="resnet18",
                imgsz=128,
                epochs=10,
                patience=10,
                batch=32,
                freeze="backbone",
                augmentation="none",
                output=Path(scratch) / name,
                device="cpu",
            )
            took[name] = cpu_seconds() - start
            epochs = training.Run(Path(scratch) / name).record()["measured"]["seconds"]
            print(f"  features {name:14s} {took[name]:7.1f} CPU s in all, {epochs:6.1f} s in the loop")
        training.frozen_head = cached
        print(f"  ratio of all: {took['at every step'] / took['once']:.1f}")


# --- a large set ------------------------------------------------------------------------------------------------------


def tree(root: Path, count: int) -> Path:
    """`count` tiny pictures in a hundred classes, no two the same."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "BMP")
    head = file.getvalue()[:-64]
    for label in range(100):
        (root / "set" / f"{label:03d}").mkdir(parents=True)
    for number in range(count):
        values = np.random.default_rng(number).integers(0, 256, 64, dtype=np.uint8).tobytes()
        (root / "set" / f"{number % 100:03d}" / f"{number:07d}.bmp").write_bytes(head + values)
    return root / "set"


def opening(options: argparse.Namespace) -> None:
    from torchvision.datasets import ImageFolder

    with tempfile.TemporaryDirectory() as scratch:
        root = tree(Path(scratch), options.files)
        start = cpu_seconds()
        scan(root)
        print(f"  {options.files} files, first scan: {cpu_seconds() - start:.1f} CPU s")
        found = best(
            {
                "ImageFolder": lambda: len(ImageFolder(str(root))),
                "fromzero, again": lambda: len(scan(root, quick=True)),
                "fromzero, again, every file compared": lambda: len(scan(root)),
            }
        )
        for name, seconds in found.items():
            ratio = found["ImageFolder"] / seconds
            print(f"  {name:38s} {seconds * options.files:6.3f} CPU s   {ratio:5.1f}x ImageFolder")
        victim = root / "005" / "0000005.bmp"
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(victim.with_suffix(".tmp.bmp"))
        os.replace(victim.with_suffix(".tmp.bmp"), victim)
        seen = scan(root, quick=True)
        row = list(seen["path"]).index("005/0000005.bmp")
        print(f"  a picture replaced: seen by the quick opening: {bool(seen['width'][row] == 9)}")


def memory(options: argparse.Namespace) -> None:
    """What a worker adds for a million samples; ours are threads of one process."""
    with tempfile.TemporaryDirectory() as scratch:
        root = tree(Path(scratch), options.files)
        scan(root)
        for name in ("fromzero", "torchvision"):
            out = subprocess.run(
                [sys.executable, __file__, "--child", name, str(root)], capture_output=True, text=True, check=True
            )
            print(f"  {name:12s} {out.stdout.strip()}")


def memory_child(name: str, root: Path) -> None:
    """Prints the memory that a set of pictures takes with four workers, at the start and at the end of an epoch's
    walk through its rows, a worker and a million samples."""
    import psutil

    def held() -> float:
        own = psutil.Process()
        return sum(each.memory_full_info().pss for each in (own, *own.children(recursive=True)))

    from torchvision.datasets import ImageFolder

    scan(root, quick=True)  # libraries are loaded
    before, seen = held(), []
    if name == "fromzero":
        manifest = scan(root, quick=True)
        pictures = Pictures(manifest, Preprocessing(size=8, channels=1, crop=1.0, mean=(0,), std=(1,)))
        count = len(manifest)
        batches: Iterator[Any] = training_batches(pictures, manifest.good(), 256, 0, 0, 4, pin=False)
    else:
        found = ImageFolder(str(root), lambda picture: np.asarray(picture).copy())
        count = len(found)
        batches = iter(torch.utils.data.DataLoader(found, 256, shuffle=True, num_workers=4))
    for number, _ in enumerate(batches):
        if number % max(1, count // 256 // 4) == 3:
            seen.append((held() - before) / 4 / count * 1e6 / 2**20)
    print("MiB a worker and million samples over an epoch: " + " ".join(f"{each:.0f}" for each in seen))


def growth(options: argparse.Namespace) -> None:
    for count in (1_000, 10_000, 100_000, 300_000):
        if count > options.files:
            break
        with tempfile.TemporaryDirectory() as scratch:
            root = tree(Path(scratch), count)
            out = subprocess.run(
                [sys.executable, __file__, "--child", "scan", str(root)], capture_output=True, text=True, check=True
            )
            print(f"  {count:7d} pictures: {out.stdout.strip()}")


def scan_child(root: Path) -> None:
    start, began = cpu_seconds(), time.perf_counter()
    manifest = scan(root)
    first = cpu_seconds() - start
    split(manifest)
    status = Path("/proc/self/status").read_text()  # getrusage's peak is the parent's, where that was larger
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    size = sum(each.stat().st_size for each in state_folder(root).iterdir()) / 2**20
    took = time.perf_counter() - began
    print(f"scan {first:.2f} CPU s, with the split {took:.2f} s, peak {peak:.0f} MiB, kept on disk {size:.1f} MiB")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "decode": decode,
    "loader": loader,
    "opening": opening,
    "memory": memory,
    "growth": growth,
    "features": features,
    "accuracy": accuracy,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child, place = sys.argv[2], Path(sys.argv[3])
        scan_child(place) if child == "scan" else memory_child(child, place)
    else:
        main()
