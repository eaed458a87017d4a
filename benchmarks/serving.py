"""The service against a bare loop, against other servers, under too much load and after a kill:
`python benchmarks/serving.py [--venv DIR] [--seconds N] [--parts efficiency,others,...]`.

One model (mobilenetv3_small_100 with random weights, exported by this project), two photos of 500 x 375, one machine,
one run. The load comes from a process of its own. CPU time is what the operating system charged to the server and its
children; the bare loop decodes, resizes and runs the same photos through the same functions and one thread, and is
timed before and after every server, so that a busy machine disturbs both sides of a ratio.

`--venv` is an environment with litserve, bentoml and fastapi (plus python-multipart, onnxruntime, pillow, simplejpeg);
this project is imported there from its source. A server that is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

SOURCE = Path(__file__).resolve().parents[1] / "src"
MODEL = "mobilenetv3_small_100"
CONCURRENCY = (1, 8, 32, 128)
GOAL = 0.92
PARTS = ("efficiency", "others", "overload", "start", "kill", "swap")
BESIDE = Path(__file__).parent
RIVALS = {  # what starts them, from the environment's bin
    "litserve": ("python", str(BESIDE / "_rival_litserve.py")),
    "bentoml": ("bentoml", "serve", "_rival_bento:Rival", "--working-dir", str(BESIDE)),  # port: BENTOML_PORT
    "fastapi": ("python", str(BESIDE / "_rival_fastapi.py")),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--overload", type=float, default=60.0, help="seconds of three times the capacity")
    parser.add_argument("--p99", default="100ms", help="latency target of the overload")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    parts = options.parts.split(",")
    with tempfile.TemporaryDirectory(prefix="fromzero-serving-") as name:
        folder = Path(name)
        artifact, photos = folder / "artifact", folder / "photos"
        write_photos(photos)
        subprocess.run([sys.executable, __file__, "make", str(artifact)], check=True, env=quiet())
        print(f"# Serving, {date.today()}, {machine()}")
        print(
            f"{MODEL}, 224 pixels; photos of {', '.join(str(each.stat().st_size) for each in photos.iterdir())} bytes"
        )
        print(f"Python {platform.python_version()}, {versions('onnxruntime', 'starlette', 'uvicorn', 'httptools')}\n")
        if "efficiency" in parts:
            efficiency(artifact, photos, options)
        if "others" in parts:
            others(artifact, photos, options)
        if "overload" in parts:
            overload(artifact, photos, options)
        if "start" in parts:
            start(artifact, photos)
        if "kill" in parts:
            kill(artifact, photos)
        if "swap" in parts:
            swap(artifact, photos, folder)
    return 0


# ---- what is compared ----


def make(folder: Path) -> None:
    """The artifact: a timm model with random weights, its norms randomised, exported by this project's own writer."""
    import timm
    import torch

    from fromzero.files import write_json
    from fromzero.formats import onnx
    from fromzero.models.deploy import Deployed, Normalise
    from fromzero.records import Preprocessing, to_json

    torch.manual_seed(0)
    module = timm.create_model(MODEL, num_classes=10).eval()
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.weight.uniform_(0.5, 1.5)
    how = Preprocessing(size=224, channels=3, crop=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    labels = tuple(f"class {number}" for number in range(10))
    folder.mkdir(parents=True)
    file = onnx.write(Deployed(module, Normalise(how)), how, labels, folder)
    about = {
        "format": "onnx",
        "model": MODEL,
        "task": "image",
        "file": file,
        "labels": labels,
        "preprocessing": how,
        "sha256": {file: hashlib.sha256((folder / file).read_bytes()).hexdigest()},
    }
    write_json(folder / "artifact.json", to_json(about))


def write_photos(folder: Path) -> None:
    """scikit-learn's two photos as JPEG files of 500 x 375."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder.mkdir()
    for number, array in enumerate(load_sample_images().images):
        Image.fromarray(array).resize((500, 375)).save(folder / f"{number}.jpg", quality=90)


def bare(artifact: Path, photos: Path, seconds: float) -> float:
    """CPU seconds for each picture of a loop that decodes, resizes and runs, and does nothing else."""
    from fromzero.data.images import prepared
    from fromzero.predicting import open_classifier

    classifier = open_classifier(artifact, threads=1)
    contents = [each.read_bytes() for each in sorted(photos.iterdir())]
    for each in contents * 3:
        classifier.scores(prepared(each, classifier.preprocessing)[None])
    count, over = 0, time.perf_counter() + seconds
    started = time.process_time()
    while time.perf_counter() < over:
        classifier.scores(prepared(contents[count % len(contents)], classifier.preprocessing)[None])
        count += 1
    return (time.process_time() - started) / count


def bare_beside_itself(artifact: Path, photos: Path, processes: int, seconds: float) -> float:
    """The same with so many of these loops at a time: cores that share a cache or a floating-point unit slow each
    other, whatever runs on them."""
    command = [sys.executable, __file__, "bare", str(artifact), str(photos), str(seconds)]
    loops = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet()) for _ in range(processes)]
    return statistics.mean(float(each.communicate()[0]) for each in loops)


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, and its processes."""

    url: str
    process: subprocess.Popen[str]

    def cpu(self) -> float:
        """CPU seconds charged so far to it and its living children."""
        total = 0.0
        for each in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
        return total

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@contextlib.contextmanager
def running(
    kind: str, artifact: Path, photos: Path, *flags: str, venv: Path | None = None, core: int | None = None
) -> Iterator[Server]:
    """A server that answers, on one `core` or all; the others come from an environment of theirs."""
    port = free_port()
    if kind == "fromzero":
        command = [
            sys.executable,
            "-m",
            "fromzero",
            "serve",
            str(artifact),
            "--port",
            str(port),
            "--lang",
            "en",
            *flags,
        ]
    elif kind == "least":
        command = [sys.executable, str(BESIDE / "_least_server.py")]
    else:
        assert venv is not None
        program, *more = RIVALS[kind]
        command = [str(venv / "bin" / program), *more]
    told = {"RIVAL_ARTIFACT": str(artifact), "RIVAL_PORT": str(port), "BENTOML_PORT": str(port)}
    environment = {**quiet(), **told, "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}"}
    command = pinned(command, core)
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, text=True, env=environment, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}{'/readyz' if kind == 'fromzero' else '/'}", process, said)
            first_answer(port, next(iter(sorted(photos.iterdir()))).read_bytes())
            yield Server(f"http://127.0.0.1:{port}/predict", process)
        finally:
            members = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            for each in [*members, process]:
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    each.kill()


def wait_for(url: str, process: subprocess.Popen[str], said: Any) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            said.seek(0)
            raise RuntimeError(said.read()[-2000:])
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise TimeoutError(url)


# ---- the load: a process of its own ----


@dataclass
class Load:
    """What a load generator saw."""

    answered: int
    refused: int
    other: int  # neither an answer nor a refusal
    lost: int  # no answer at all
    wrong: int  # another class than the first answer for the same photo
    seconds: float
    latencies: list[float]  # of answers
    refusals: list[float]  # seconds to a 429

    def p(self, share: float) -> float:
        ordered = sorted(self.latencies) or [float("nan")]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def load(
    url: str, photos: Path, seconds: float, concurrency: int = 1, rate: float = 0.0, core: int | None = None
) -> Load:
    """Send photos for so long: `concurrency` clients, each as soon as it has its answer, or `rate` requests a second
    whatever comes back."""
    command = [sys.executable, __file__, "load", url, str(photos), str(seconds), str(concurrency), str(rate)]
    done = subprocess.run(pinned(command, core), check=True, capture_output=True, text=True, env=quiet())
    return Load(**json.loads(done.stdout))


async def send_load(url: str, photos: Path, seconds: float, concurrency: int, rate: float) -> Load:
    host, port, path = re.fullmatch(r"http://([^:/]+):(\d+)(/.*)", url).groups()  # type: ignore[union-attr]
    requests = [request_of(each.read_bytes(), host, path) for each in sorted(photos.iterdir())]
    seen = Load(0, 0, 0, 0, 0, 0.0, [], [])
    known: dict[int, str] = {}
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(number: int, due: float) -> None:
        which = number % len(requests)
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port))
            writer.write(requests[which])
            await writer.drain()
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            status = int(head[9:12])
            length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])  # type: ignore[index]
            body = await reader.readexactly(length)
        except (OSError, EOFError, TimeoutError):
            seen.lost += 1
            return
        took = time.perf_counter() - due
        if b"connection: close" in head.lower():
            writer.close()
        else:
            idle.append((reader, writer))
        if status == 200:
            label = json.loads(body)["predictions"][0]["label"]
            seen.wrong += known.setdefault(which, label) != label
            seen.answered += 1
            seen.latencies.append(took)
        elif status == 429:
            seen.refused += 1
            seen.refusals.append(took)
        else:
            seen.other += 1

    started = time.perf_counter()
    if rate:
        tasks: set[asyncio.Task[None]] = set()
        number = 0
        while (now := time.perf_counter() - started) < seconds:
            while number / rate <= now:
                task = asyncio.create_task(one(number, time.perf_counter()))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
    else:

        async def client(number: int) -> None:
            while time.perf_counter() - started < seconds:
                await one(number, time.perf_counter())
                number += 1

        await asyncio.gather(*(client(number) for number in range(concurrency)))
    seen.seconds = time.perf_counter() - started
    return seen


def request_of(content: bytes, host: str, path: str) -> bytes:
    body = (
        b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n" + content + b"\r\n--frontier--\r\n"
    )
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=frontier\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


# ---- the tables ----


def efficiency(artifact: Path, photos: Path, options: argparse.Namespace) -> None:
    """CPU of the bare loop / CPU of the server for each request, and requests a second; beside it the least server that
    can be written, for how near 1 a request over HTTP comes at all."""
    print("## CPU efficiency against a bare loop of decode + resize + run\n")
    print("| concurrency | server | CPU ms / request | bare, CPU ms | efficiency | requests / s | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    short, cores = options.seconds / 2, os.cpu_count() or 1
    for concurrency in CONCURRENCY:
        rows: dict[str, list[tuple[float, float, float, Load]]] = {"fromzero": [], "least": []}
        for _ in range(options.repeats):
            for kind in rows:
                loops = 1 if concurrency == 1 or kind == "least" else cores
                with running(kind, artifact, photos, *(("--p99", "10s") if kind == "fromzero" else ())) as server:
                    load(server.url, photos, 1.0, concurrency)
                    before = bare_beside_itself(artifact, photos, loops, short)
                    spent = server.cpu()
                    seen = load(server.url, photos, options.seconds, concurrency)
                    each = (server.cpu() - spent) / max(1, seen.answered)
                    after = bare_beside_itself(artifact, photos, loops, short)
                reference = (before + after) / 2
                assert not (seen.lost or seen.wrong or seen.other), seen
                rows[kind].append((reference / each, each, reference, seen))
        for kind, found in rows.items():
            ratio, each, reference, seen = sorted(found, key=lambda row: row[0])[len(found) // 2]
            print(
                f"| {concurrency} | {kind} | {each * 1e3:.2f} | {reference * 1e3:.2f} "
                f"| {ratio:.2f} {between([r[0] for r in found])} | {seen.answered / seen.seconds:.0f} "
                f"| {seen.p(0.5) * 1e3:.0f} | {seen.p(0.99) * 1e3:.0f} |",
                flush=True,
            )
    print(f"\nMedian of {options.repeats} (lowest to highest); the goal is {GOAL}. Load {os.getloadavg()[0]:.1f}.\n")


def others(artifact: Path, photos: Path, options: argparse.Namespace) -> None:
    """Requests a second and CPU for each, of every server in turn, as often as there are rounds. Each ratio is of one
    round. Where others use the machine, a server with more threads gets more of it: then only the CPU compares."""
    kinds = ["fromzero", *installed(options.venv)]
    print(f"## Against other servers: {', '.join(kinds)}\n")
    seen: dict[tuple[str, int], list[tuple[float, float, Load]]] = {}
    for number in range(options.repeats):
        for kind in kinds if number % 2 == 0 else kinds[::-1]:
            flags = ("--p99", "10s", "--quiet") if kind == "fromzero" else ()
            with running(kind, artifact, photos, *flags, venv=options.venv) as server:
                for concurrency in CONCURRENCY:
                    load(server.url, photos, 0.5, concurrency)
                    spent = server.cpu()
                    found = load(server.url, photos, options.seconds, concurrency)
                    cpu = (server.cpu() - spent) / max(1, found.answered)
                    seen.setdefault((kind, concurrency), []).append((found.answered / found.seconds, cpu, found))
    print(
        "| concurrency | server | requests / s | CPU ms / request | p50 ms | p99 ms "
        "| our rate / its | its CPU / ours | bad |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for concurrency in CONCURRENCY:
        ours = seen["fromzero", concurrency]
        for kind in kinds:
            rows = seen[kind, concurrency]
            rate, cpu = (statistics.median(row[column] for row in rows) for column in (0, 1))
            p50, p99 = (statistics.median(row[2].p(share) for row in rows) * 1e3 for share in (0.5, 0.99))
            faster = [our[0] / its[0] for our, its in zip(ours, rows, strict=True)]
            thrifty = [its[1] / our[1] for our, its in zip(ours, rows, strict=True)]
            bad = sum(row[2].lost + row[2].wrong + row[2].other for row in rows)
            print(
                f"| {concurrency} | {kind} | {rate:.0f} | {cpu * 1e3:.1f} | {p50:.0f} | {p99:.0f} "
                f"| {statistics.median(faster):.2f} {between(faster)} "
                f"| {statistics.median(thrifty):.2f} {between(thrifty)} | {bad} |"
            )
    print(f"\nMedians of {options.repeats} rounds (lowest to highest). Load {os.getloadavg()[0]:.1f}.\n", flush=True)


def between(values: list[float]) -> str:
    return f"({min(values):.2f}-{max(values):.2f})"


def overload(artifact: Path, photos: Path, options: argparse.Namespace) -> None:
    """Capacity as predicted at the start and as measured, then three times that. The server has one core and the
    generator another: on a shared one the generator's own waiting would count as the server's latency."""
    print(f"## Three times the capacity for {options.overload:.0f} s, --p99 {options.p99}\n")
    with running("fromzero", artifact, photos, "--p99", options.p99, "--quiet", core=0) as server:
        ready = server.url.replace("/predict", "/readyz")
        with urllib.request.urlopen(ready) as answer:
            predicted = next(iter(json.load(answer)["capacity"].values()))
        measured = load(server.url, photos, options.seconds, 4, core=1)
        capacity = measured.answered / measured.seconds
        print(
            f"capacity: predicted {predicted:.0f}, measured {capacity:.0f} requests/s, {predicted / capacity - 1:+.0%}"
        )
        seen = load(server.url, photos, options.overload, rate=3 * capacity, core=1)
        target = float(re.match(r"[\d.]+", options.p99)[0]) / (1e3 if options.p99.endswith("ms") else 1)  # type: ignore[index]
        offered = seen.answered + seen.refused + seen.other + seen.lost
        print(f"offered {offered} in {seen.seconds:.0f} s ({offered / seen.seconds:.0f}/s)")
        print(f"answered {seen.answered} ({seen.answered / seen.seconds:.0f}/s), refused with 429 {seen.refused}")
        print(f"lost {seen.lost}, wrong {seen.wrong}, other {seen.other}")
        print(
            f"of the accepted: p50 {seen.p(0.5) * 1e3:.0f} ms, p99 {seen.p(0.99) * 1e3:.0f} ms, target "
            f"{target * 1e3:.0f} ms: {'kept' if seen.p(0.99) <= target else 'missed'}; "
            f"refusals: median {statistics.median(seen.refusals or [0]) * 1e3:.1f} ms\n",
            flush=True,
        )


def start(artifact: Path, photos: Path) -> None:
    """From the command to the first right answer, on a port nobody answered on before."""
    print("## Start to first answer\n")
    took = []
    content = next(iter(sorted(photos.iterdir()))).read_bytes()
    for _ in range(5):
        port = free_port()
        command = [sys.executable, "-m", "fromzero", "serve", str(artifact), "--port", str(port), "--quiet"]
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=quiet())
        try:
            first_answer(port, content)
            took.append(time.perf_counter() - begun)
        finally:
            process.terminate()
            process.wait(15)
    print(f"seconds: {', '.join(f'{each:.2f}' for each in sorted(took))}; the goal is 2\n", flush=True)


def kill(artifact: Path, photos: Path) -> None:
    """kill -9 of the worker while requests are in flight: how they end, and when the next one is answered."""
    print("## kill -9 of the worker\n")
    content = next(iter(sorted(photos.iterdir()))).read_bytes()
    with running("fromzero", artifact, photos, "--quiet") as server:
        port = int(server.url.split(":")[2].split("/")[0])
        for _ in range(3):
            command = [sys.executable, __file__, "load", server.url, str(photos), "4", "8", "0"]
            clients = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet())
            time.sleep(1.5)
            worker = psutil.Process(server.process.pid).children()[0]
            worker.kill()
            begun = time.perf_counter()
            first_answer(port, content)
            back = time.perf_counter() - begun
            seen = Load(**json.loads(clients.communicate()[0]))
            print(
                f"answers again after {back:.2f} s (goal 2); of 8 requests in flight {seen.lost} ended with "
                f"a closed connection; besides {seen.answered} answered, {seen.wrong} wrong, {seen.other} other",
                flush=True,
            )
    print()


def swap(artifact: Path, photos: Path, folder: Path) -> None:
    """The model's files are replaced and SIGHUP sent, five times, under load: no request may be lost."""
    print("## Hot swap under load\n")
    served = folder / "served"
    shutil.copytree(artifact, served)
    with running("fromzero", served, photos, "--quiet", "--p99", "5s") as server:
        command = [sys.executable, __file__, "load", server.url, str(photos), "12", "8", "0"]
        clients = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet())
        for number in range(5):
            time.sleep(2)
            about = json.loads((served / "artifact.json").read_text())
            (served / "artifact.json").write_text(json.dumps({**about, "edition": number}))
            server.process.send_signal(signal.SIGHUP)
        seen = Load(**json.loads(clients.communicate()[0]))
        with urllib.request.urlopen(server.url.replace("/predict", "/metrics")) as answer:
            versions = len(re.findall(r"^fromzero_model\{", answer.read().decode(), re.M))
    print(
        f"{versions} versions answered {seen.answered}: {seen.lost} lost, {seen.wrong} wrong, {seen.other} other, "
        f"{seen.refused} refused, p99 {seen.p(0.99) * 1e3:.0f} ms\n"
    )


def first_answer(port: int, content: bytes) -> None:
    """Ask until the answer comes."""
    request = request_of(content, "127.0.0.1", "/predict").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    import socket

    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(request)
                if connection.recv(4096).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.01)


def installed(venv: Path | None) -> list[str]:
    """The other servers that can be imported in their environment."""
    found: list[str] = []
    if venv is None:
        return found
    for kind in RIVALS:
        asked = subprocess.run([str(venv / "bin" / "python"), "-c", f"import {kind}"], capture_output=True)
        if asked.returncode:
            print(f"{kind} cannot be imported: left out")
        else:
            found.append(kind)
    return found


def free_port() -> int:
    from fromzero.machine.process import free_port

    return free_port()


def pinned(command: list[str], core: int | None) -> list[str]:
    """The command on that core alone, where the system can."""
    return command if core is None or not shutil.which("taskset") else ["taskset", "-c", str(core), *command]


def quiet() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}


def versions(*packages: str) -> str:
    return ", ".join(f"{each} {version(each)}" for each in packages)


def machine() -> str:
    found = (
        re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if os.path.exists("/proc/cpuinfo")
        else None
    )
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["bare"]:
        print(bare(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))
    elif sys.argv[1:2] == ["load"]:
        with contextlib.suppress(ImportError):
            import uvloop

            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        seen = asyncio.run(
            send_load(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]))
        )
        print(json.dumps(seen.__dict__))
    else:
        sys.exit(main())
