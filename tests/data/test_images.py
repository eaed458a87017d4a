"""Every odd picture is either decoded to what a person sees, or refused with a code that says why."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fromzero.data import images
from fromzero.data.images import decode, pixels, prepared
from fromzero.errors import UnreadableImage
from fromzero.records import Preprocessing

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(picture, kind="PNG", **options):
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def smooth(width, height, channels=3):
    """A picture without detail, so that resampling filters agree on it."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 / max(1, width - 1), y * 255 / max(1, height - 1), (x + y) * 255 / max(1, width + height - 2)]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def how(size=16, channels=3, crop=1.0):
    return Preprocessing(size=size, channels=channels, crop=crop, mean=(0.0,) * channels, std=(1.0,) * channels)


def code_of(content, name="x.png"):
    with pytest.raises(UnreadableImage) as caught:
        decode(content, name)
    assert name in str(caught.value)
    return caught.value.code


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_truncated(kind, share):
    whole = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    assert decode(whole).size == (64, 64)
    assert code_of(whole[: int(len(whole) * share)]) == "image_damaged"


def test_zero_byte():
    assert code_of(b"") == "image_empty"


@pytest.mark.parametrize("content", [b"GIF89a", b"hello world", b"\0" * 1000, b"%PDF-1.4\n", b"<svg/>", b"\xff\xd8"])
def test_not_an_image(content):
    assert code_of(content) in ("image_unknown", "image_damaged")


def test_formats_that_run_programs_are_not_opened():
    assert code_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n") == "image_unknown"


def test_bytes_changed_anywhere_are_decoded_or_refused():
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"):
        whole = encoded(Image.fromarray(COLOUR), kind)
        for _ in range(40):
            damaged = bytearray(whole)
            for place in RNG.integers(0, len(whole), 4):
                damaged[place] = RNG.integers(256)
            try:
                assert decode(bytes(damaged)).mode in ("L", "RGB")
            except UnreadableImage as error:
                assert error.code.startswith("image_")


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(20_000, 20_000), (12_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bomb(size):
    assert code_of(png_header(*size)) in ("image_too_large", "image_damaged")


def test_a_picture_just_below_the_limit_is_not_a_bomb(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 600)
    assert decode(encoded(Image.new("RGB", (30, 20)))).size == (30, 20)
    assert code_of(encoded(Image.new("RGB", (30, 21)))) == "image_too_large"


def test_directory_and_missing_file(tmp_path):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    for path in (folder, tmp_path / "missing.png"):
        with pytest.raises(UnreadableImage) as caught:
            decode(path)
        assert caught.value.code == "image_not_read"
        assert path.name in caught.value.cause


# --- decoded ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_the_extension_does_not_matter(tmp_path, kind):
    path = tmp_path / "photo 照片.jpg"
    path.write_bytes(encoded(Image.fromarray(COLOUR), kind))
    assert np.array_equal(decode(path), COLOUR)


def test_cmyk_jpeg():
    picture = Image.fromarray(smooth(64, 48))
    seen = decode(encoded(picture.convert("CMYK"), "JPEG", quality=98))
    assert seen.mode == "RGB"
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(picture)).mean() < 4


@pytest.mark.parametrize("top", [65535, 40_000, 255, 30])
def test_16_bit_grey_is_scaled_by_its_range(top):
    values = np.linspace(0, top, 600).reshape(20, 30).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        seen = decode(encoded(Image.fromarray(values), kind))
        assert seen.mode == "L"
        assert np.abs(np.asarray(seen).astype(float) - values / 257).max() <= 1


def test_16_bit_colour():
    """A hand-made RGB PNG with 16 bits a channel; Pillow cannot write one."""
    values = RNG.integers(0, 65536, (6, 5, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    seen = decode(content)
    assert seen.mode == "RGB"
    assert np.abs(np.asarray(seen).astype(float) - values.astype(float) / 257).max() <= 1


@pytest.mark.parametrize("values", [[[0.0, 0.5, 1.0]], [[0.0, 127.0, 255.0]], [[np.nan, 0.5, 1.0]]])
def test_float_tiff(values):
    seen = np.asarray(decode(encoded(Image.fromarray(np.array(values, dtype=np.float32)), "TIFF")))
    assert seen[0, 0] == 0 and seen[0, 1] == 127 and seen[0, 2] == 255


def test_palette():
    picture = Image.fromarray(smooth(30, 20)).quantize(64)
    assert np.array_equal(decode(encoded(picture)), picture.convert("RGB"))


def test_palette_with_transparency():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    assert np.asarray(decode(encoded(picture, transparency=0))).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_rgba_lies_on_white():
    picture = Image.new("RGBA", (3, 1))
    for x, colour in enumerate([(0, 0, 0, 0), (200, 100, 0, 255), (0, 0, 0, 128)]):
        picture.putpixel((x, 0), colour)
    seen = np.asarray(decode(encoded(picture)))
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert seen[0, 1].tolist() == [200, 100, 0]
    assert np.abs(seen[0, 2].astype(int) - 127).max() <= 1


@pytest.mark.parametrize("mode, colour", [("RGB", (200, 100, 50)), ("L", 77), ("1", 0)])
def test_one_see_through_colour_lies_on_white(mode, colour):
    """The tRNS chunk of a PNG without a palette."""
    content = encoded(Image.new(mode, (4, 4), colour), transparency=colour)
    seen = decode(content)
    assert seen.mode == ("RGB" if mode == "RGB" else "L")
    assert (np.asarray(seen) == 255).all()


def test_la_stays_grey_and_lies_on_white():
    picture = Image.new("LA", (2, 1), (80, 255))
    picture.putpixel((1, 0), (80, 0))
    seen = decode(encoded(picture))
    assert seen.mode == "L"
    assert np.asarray(seen).tolist() == [[80, 255]]


def test_1_bit():
    picture = Image.new("1", (2, 1))
    picture.putpixel((1, 0), 1)
    seen = decode(encoded(picture))
    assert seen.mode == "L"
    assert np.asarray(seen).tolist() == [[0, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(kind, orientation):
    """Stored as a camera would for each way it can be held, every picture is seen as the upright one."""
    upright = np.zeros((16, 32), dtype=np.uint8)
    upright[:8, :8] = 255  # bright only at the top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright.T[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    seen = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options))
    assert seen.size == (32, 16)
    assert np.abs(np.asarray(seen.convert("L")).astype(int) - upright).mean() < 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    seen = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert seen.size == (8, 8)
    assert seen.convert("RGB").getpixel((4, 4)) == (255, 0, 0)


# --- pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, height", [(64, 64), (100, 60), (60, 100), (10, 14), (333, 200)])
@pytest.mark.parametrize("crop", [1.0, 0.875])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_the_resized_centre_square(width, height, crop, channels):
    picture = Image.fromarray(smooth(width, height))
    side = min(width, height) * crop
    left, top = (width - side) / 2, (height - side) / 2
    wanted = picture.convert("L" if channels == 1 else "RGB").resize(
        (16, 16), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    seen = pixels(picture, how(16, channels, crop))
    assert seen.shape == (16, 16, channels) and seen.dtype == np.uint8
    assert np.abs(seen.astype(int) - np.asarray(wanted).reshape(seen.shape)).max() <= 2


def test_a_picture_of_the_right_size_is_taken_as_it_is():
    array = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(pixels(Image.fromarray(array), how(16, crop=0.875)), array)


def test_a_grey_picture_fills_three_channels():
    array = RNG.integers(0, 256, (16, 16), dtype=np.uint8)
    assert np.array_equal(pixels(Image.fromarray(array), how(16, 3)), np.repeat(array[..., None], 3, axis=2))


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (1, 1), (9_000, 2)])
def test_strips_stay_small(size):
    picture = decode(encoded(Image.new("RGB", size, (10, 20, 30))))
    assert np.array_equal(np.unique(pixels(picture, how(224, crop=0.875)).reshape(-1, 3), axis=0), [[10, 20, 30]])


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (1, 3000), (16, 16)])
def test_padding_keeps_the_whole_picture_in_the_middle_of_white(size, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", size, (0, 0, 200, 255)).save(path)
    how = Preprocessing(size=16, channels=3, crop=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, resize="pad")
    made = prepared(path, how)
    assert made.shape == (16, 16, 3)
    ink = (made[..., 0] < 128).nonzero()
    height, width = (int(np.ptp(each)) + 1 for each in ink)
    assert (width, height) == tuple(max(1, round(each * 16 / max(size))) for each in size)
    middle = [(each.min() + each.max()) / 2 for each in ink]
    assert all(abs(each - 7.5) <= 0.5 for each in middle)
    assert (np.delete(made.reshape(-1, 3), np.flatnonzero(made[..., 0] < 128), axis=0) == 255).all()
