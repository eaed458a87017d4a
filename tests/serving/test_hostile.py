"""Whatever is sent to /predict, the client is at fault or gets an answer; the service neither breaks nor forgets."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from fromzero.records import Preprocessing
from fromzero.serving.app import application
from fromzero.serving.openapi import IMAGE_CODES

FORM = "multipart/form-data; boundary=frontier"


class Brightness:
    name, task, device = "brightness", "image", "cpu"
    labels = ("dark", "bright")
    preprocessing = Preprocessing(size=64, channels=1, crop=0.875, mean=(0.5,), std=(0.5,))

    def scores(self, batch):
        bright = batch.reshape(len(batch), -1).mean(1) / 255
        return np.stack([1 - bright, bright], 1).astype(np.float32)


@pytest.fixture(scope="module")
def service(ready):
    with TestClient(application(Brightness(), max_bytes=2**20, language="en"), raise_server_exceptions=True) as client:
        yield ready(client)


@pytest.fixture
def client(service):
    check(service)
    yield service
    check(service)
    counted = service.get("/metrics").text.splitlines()
    assert [each for each in counted if 'status="5' in each and 'path="/readyz"' not in each] == []


def check(client):
    """The right answer, before and after."""
    for shade, label in ((250, "bright"), (5, "dark")):
        answer = client.post("/predict", files={"file": picture("PNG", shade)})
        assert answer.status_code == 200
        assert answer.json()["predictions"][0]["label"] == label


def picture(kind, shade=128, size=(24, 20)):
    noise = np.random.default_rng(0).integers(-5, 6, (size[1], size[0], 3))
    stream = io.BytesIO()
    Image.fromarray(np.clip(noise + shade, 0, 255).astype(np.uint8)).save(stream, kind)
    return stream.getvalue()


def survives(client, content, name="a.png"):
    answer = client.post("/predict", files={"file": (name, content)})
    assert answer.status_code in (200, 422), (answer.status_code, answer.text)
    if answer.status_code == 422:
        assert answer.json()["code"] in IMAGE_CODES
    return answer


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_truncated_and_flipped_pictures(client, kind):
    dice = random.Random(kind)
    whole = picture(kind)
    for _ in range(20):
        survives(client, whole[: dice.randrange(len(whole))])
        flipped = bytearray(whole)
        for _ in range(dice.choice((1, 3, 30))):
            flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        survives(client, bytes(flipped))
        survives(client, whole[: dice.randrange(64)] + dice.randbytes(100))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(width, height, data=b"", depth=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_bombs_and_absurd_dimensions(client):
    for width, height in ((65535, 65535), (2**31 - 1, 2**31 - 1), (2**31, 1), (0, 0), (1, 2**30), (10**6, 10**6)):
        answer = survives(client, png_claiming(width, height))
        assert answer.status_code == 422
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\xf0\x00\x00" + bytes(6) + b","
    assert survives(client, gif + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x00;").status_code == 422
    bitmap = (
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 60000, -60000, 1, 24, *[0] * 6)
    )
    assert survives(client, bitmap).status_code == 422
    thin = png_claiming(1, 60000, b"\x00\x80" * 60000, colour=0)  # only its middle is scaled
    assert survives(client, thin).status_code == 200
    text_bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))
    survives(client, text_bomb + picture("PNG")[8:])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<script>alert(1)</script>",
        b"PK\x03\x04" + bytes(100),
        b"%PDF-1.7\n",
        b"MZ" + bytes(200),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n",
        b"P6 99999 99999 255\n",
        b"P5 -1 -1 255\n",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"\xff\xd8\xff",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
    ],
)
def test_wrong_types(client, content):
    assert survives(client, content).status_code == 422


def test_polyglots_are_pictures_or_nothing(client):
    survives(client, picture("GIF") + b"<script>alert(1)</script>")
    survives(client, picture("JPEG") + b"PK\x03\x04" + bytes(100))
    survives(client, b"<?php system($_GET[0]); ?>" + picture("PNG"))


NAMES = [
    "../../../../etc/passwd",
    "..\\..\\windows\\system32\\x.png",
    "/etc/passwd",
    "C:\\con.png",
    "a\0b.png",
    "a\r\nX-Injected: 1.png",
    "\u202egnp.exe",
    "图片.png",
    "<img src=x onerror=alert(1)>",
    "{0.__class__}{path}",
    "%s%n%d",
    "a" * 3000,
    ".",
    "..",
    " ",
    '"; filename="b',
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names(client, name):
    whole = picture("PNG")
    answer = client.post("/predict", files=[("file", (name, whole)), ("file", (name, b"junk"))])
    assert answer.status_code == 200, answer.text
    fine, bad = answer.json()["results"]
    assert fine["predictions"] and bad["code"] in IMAGE_CODES
    for shown in (fine["name"], bad["name"]):
        assert "/" not in shown and "\\" not in shown and len(shown) <= 200
        assert shown.isprintable() or not shown
    assert "x-injected" not in answer.headers


HEAD = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n'
BODIES = [
    b"",
    b"--",
    b"--frontier",
    b"--frontier--",
    b"--frontier--\r\n",
    b"\r\n" * 1000 + b"--frontier--\r\n",
    b"--frontier\r\n\r\n\r\n--frontier--\r\n",
    b"--frontier\r\n" + HEAD + b"\r\nabc",
    b"--frontier\r\n" + HEAD + b"\r\nabc\r\n--frontier",
    b"--frontier\r\n" + HEAD + b"\r\nabc\r\n--other--\r\n",
    b"--frontier\r\n" + HEAD + b"--frontier--\r\n",
    b"--frontier\r\n" + HEAD + b"\r\n--frontier--\r\n",
    b"--frontier\r\nno colon here\r\n\r\nabc\r\n--frontier--\r\n",
    b"--frontier\r\n: empty\r\n\r\nabc\r\n--frontier--\r\n",
    b"--frontier\r\nContent-Disposition:\r\n\r\nabc\r\n--frontier--\r\n",
    b"--frontier\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--frontier--\r\n",
    b'--frontier\r\nContent-Disposition: form-data; name="\xff\xfe"\r\n\r\nabc\r\n--frontier--\r\n',
    b"--frontier\r\nContent-Disposition: form-data; name*=utf-8''file\r\n\r\nabc\r\n--frontier--\r\n",
    b'--frontier\r\nContent-Disposition: form-data; name="file; filename=\r\n\r\nabc\r\n--frontier--\r\n',
    b"--frontier\r\n" + b"X: y\r\n" * 10000 + b"\r\nabc\r\n--frontier--\r\n",
    b"--frontier\r\nX: " + b"y" * 500000 + b"\r\n\r\nabc\r\n--frontier--\r\n",
    b"--frontier\r\nContent-Disposition: form-data; " + b'a="b";' * 20000 + b"\r\n\r\nabc\r\n--frontier--\r\n",
    (b"--frontier\r\n" + HEAD + b"\r\nx\r\n") * 3000 + b"--frontier--\r\n",
    b"--frontier\n" + HEAD.replace(b"\r\n", b"\n") + b"\nabc\n--frontier--\n",
    b"--frontier\r\n" + HEAD + b"Content-Transfer-Encoding: base64\r\n\r\nQUJD\r\n--frontier--\r\n",
    b"--frontier\r\n" + HEAD + b"\r\nabc\r\n--frontier--\r\n" + b"epilogue" * 1000,
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_weird_multipart(client, body):
    answer = client.post("/predict", content=body, headers={"content-type": FORM})
    assert answer.status_code in (400, 413, 422), answer.text
    assert set(answer.json()) == {"code", "message"}


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data;",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="',
        "multipart/form-data; boundary=" + "x" * 5000,
        "multipart/form-data; boundary=\xff\xfe",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary*=utf-8''frontier",
        "MULTIPART/FORM-DATA; BOUNDARY=frontier",
        "multipart/form-dataX; boundary=frontier",
        "multipart/mixed; boundary=frontier",
        "image/png",
        "application/x-www-form-urlencoded",
        ";;;;",
        "",
    ],
)
def test_weird_content_types(client, content_type):
    whole = b"--frontier\r\n" + HEAD + b"\r\n" + picture("PNG") + b"\r\n--frontier--\r\n"
    answer = client.post("/predict", content=whole, headers={"content-type": content_type.encode("latin-1")})
    assert answer.status_code in (200, 400, 415, 422), answer.text


def test_random_bodies(client):
    dice = random.Random(7)
    template = b"--frontier\r\n" + HEAD + b"\r\n" + picture("JPEG") + b"\r\n--frontier--\r\n"
    for number in range(300):
        if number % 2:
            body = dice.randbytes(dice.randrange(2000))
        else:
            start, length = dice.randrange(len(template)), dice.randrange(40)
            body = template[:start] + dice.randbytes(dice.randrange(40)) + template[start + length :]
        answer = client.post("/predict", content=body, headers={"content-type": FORM})
        assert answer.status_code in (200, 400, 413, 422), (number, answer.text)


def test_random_paths_methods_and_headers(client):
    dice = random.Random(11)
    for _ in range(100):
        path = "/" + "".join(dice.choice("abc/.%?#&=é中\\") for _ in range(dice.randrange(30)))
        headers = {
            "accept-language": dice.randbytes(20).hex(),
            "x-request-id": dice.randbytes(10).hex() + "é",
            "range": "bytes=9-",
        }
        answer = client.request(
            dice.choice(("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW")),
            path,
            headers={name: value.encode() for name, value in headers.items()},
        )
        assert answer.status_code < 500


def test_path_cannot_leave_the_service(client):
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page.html", "/docs/../app.py"):
        assert "root:" not in client.get(path).text
