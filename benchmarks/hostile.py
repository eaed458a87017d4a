"""Malformed uploads against a running server: `python benchmarks/hostile.py [--count 5000]`.

Truncated, bit-flipped, of the wrong type, two formats in one, bombs, absurd dimensions, huge headers, path traversal
in names, malformed multipart and HTTP, slow clients, from a seeded generator. Throughout, a right answer is asked
for every 250 uploads. Fails if there is a 5xx, a crash, a wrong answer, or memory that grows.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from datetime import date
from pathlib import Path

import serving
from PIL import Image

KINDS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
GROWTH = 64 << 20  # bytes the workers may grow after the first thousand


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory(prefix="fromzero-hostile-") as name:
        artifact, photos = Path(name) / "artifact", Path(name) / "photos"
        serving.write_photos(photos)
        subprocess.run([sys.executable, serving.__file__, "make", str(artifact)], check=True, env=serving.quiet())
        print(f"# Hostile uploads, {date.today()}, {serving.machine()}")
        with serving.running("fromzero", artifact, photos, "--quiet", "--p99", "60s") as server:
            return attack(server, (photos / "0.jpg").read_bytes(), count)


def attack(server: serving.Server, photo: bytes, count: int) -> int:
    dice = random.Random(8)
    port = int(server.url.split(":")[2].split("/")[0])
    workers = [each.pid for each in server.family()]
    right = exchange(port, serving.request_of(photo, "x", "/predict"))
    assert right[0] == 200
    slow = [slow_loris(port) for _ in range(64)]
    statuses: collections.Counter[int] = collections.Counter()
    wrong, settled, started = 0, 0, time.monotonic()
    for number in range(count):
        status, _ = exchange(port, malformed(dice))
        statuses[status] += 1
        if number % 250 == 249:
            answer = exchange(port, serving.request_of(photo, "x", "/predict"))
            wrong += best(answer) != best(right)
        if number == min(1000, count // 2):
            settled = memory(server)
    grown = memory(server) - settled
    wrong += best(exchange(port, serving.request_of(photo, "x", "/predict"))) != best(right)
    alive = workers == [each.pid for each in server.family()]
    for each in slow:
        each.close()
    told = ", ".join(f"{status or 'closed'}: {each}" for status, each in sorted(statuses.items()))
    print(
        f"{count} malformed uploads in {time.monotonic() - started:.0f} s beside 64 clients that never finish: {told}"
    )
    print(f"wrong answers between: {wrong}; same processes: {alive}; memory grew by {grown / 2**20:.1f} MiB")
    good = not wrong and alive and grown < GROWTH and not any(status >= 500 for status in statuses)
    return 0 if good else 1


def best(answer: tuple[int, bytes]) -> bytes:
    found = re.search(rb'"label":"([^"]+)"', answer[1])
    return found[1] if found else b""


def memory(server: serving.Server) -> int:
    return sum(each.memory_info().rss for each in server.family())


def exchange(port: int, request: bytes) -> tuple[int, bytes]:
    """One request on a connection of its own; status 0 if it is closed without an answer."""
    request = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with contextlib.suppress(OSError):  # the server may close before it has everything
            connection.sendall(request)
        answer = b""
        with contextlib.suppress(OSError):
            while block := connection.recv(65536):
                answer += block
    found = re.match(rb"HTTP/1.1 (\d+)", answer)
    return int(found[1]) if found else 0, answer


def slow_loris(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    return connection


def malformed(dice: random.Random) -> bytes:
    return dice.choice((cut, flipped, foreign, polyglot, bomb, absurd, traversal, headers, parts, junk))(dice)


def picture(dice: random.Random) -> bytes:
    stream = io.BytesIO()
    size = dice.randrange(1, 80), dice.randrange(1, 80)
    Image.frombytes("RGB", size, dice.randbytes(3 * size[0] * size[1])).save(stream, dice.choice(KINDS))
    return stream.getvalue()


def form(content: bytes, name: bytes = b"a.png") -> bytes:
    part = b'--f\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n' % name
    return post(part + content + b"\r\n--f--\r\n")


def post(body: bytes, more: bytes = b"", kind: bytes = b"multipart/form-data; boundary=f") -> bytes:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n" % (kind, len(body))
    return head + more + b"\r\n" + body


def cut(dice: random.Random) -> bytes:
    whole = picture(dice)
    return form(whole[: dice.randrange(len(whole))])


def flipped(dice: random.Random) -> bytes:
    whole = bytearray(picture(dice))
    for _ in range(dice.choice((1, 3, 30))):
        whole[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
    return form(bytes(whole))


def foreign(dice: random.Random) -> bytes:
    start = dice.choice(
        (b"", b"%PDF-1.7\n", b"PK\3\4", b"<svg/>", b"MZ", b"\x7fELF", b"RIFF\xff\xff\xff\xffWEBP", b"P6 9")
    )
    return form(start + dice.randbytes(dice.randrange(400)))


def polyglot(dice: random.Random) -> bytes:
    return form(
        dice.choice((b"", b"<?php ?>", b"PK\3\4")) + picture(dice) + b"<script>alert(1)</script>" + picture(dice)
    )


def png(width: int, height: int, data: bytes, more: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


ZEROS = zlib.compress(bytes(30_000_000), 9)


def bomb(dice: random.Random) -> bytes:
    return form(png(dice.choice((5000, 30000, 65535)), dice.choice((1, 5999, 65535)), ZEROS))


def absurd(dice: random.Random) -> bytes:
    return form(png(dice.choice((0, 1, 2**31 - 1, 2**32 - 1)), dice.choice((0, 1, 2**30, 2**32 - 1)), b""))


def traversal(dice: random.Random) -> bytes:
    name = dice.choice((b"../../etc/passwd", b"..\\..\\x", b"/dev/null", b"a\0b", b"%2e%2e/", b"x" * 9000, b"\xff\xfe"))
    return form(picture(dice)[: dice.randrange(40)], name)


def headers(dice: random.Random) -> bytes:
    more = dice.choice(
        (
            b"X-A: " + b"a" * 200_000 + b"\r\n",
            b"".join(b"X-%d: 1\r\n" % number for number in range(5000)),
            b"Content-Length: 7\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"X-Request-Id: " + dice.randbytes(20).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n",
            b"Expect: 100-continue\r\n",
        )
    )
    return post(b"--f--\r\n", more)


def parts(dice: random.Random) -> bytes:
    body = bytearray(form(picture(dice)).split(b"\r\n\r\n", 1)[1])
    for _ in range(dice.randrange(1, 4)):
        place = dice.randrange(min(len(body), 120))
        body[place : place + dice.randrange(9)] = dice.randbytes(dice.randrange(9))
    return post(bytes(body))


def junk(dice: random.Random) -> bytes:
    kind = dice.choice(
        (b"application/json", b"text/plain", b"multipart/form-data", b"multipart/form-data; boundary=f", b"\xff")
    )
    return post(dice.randbytes(dice.randrange(3000)), kind=kind)


if __name__ == "__main__":
    sys.exit(main())
