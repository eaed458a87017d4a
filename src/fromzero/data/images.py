"""One picture: from bytes to the array a network sees. The only decoder and the only preprocessing of the project:
training, evaluation, export and serving all come through here. Needs Pillow and NumPy, not torch.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fromzero.errors import UnreadableImage
from fromzero.records import Preprocessing

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # JPEG opens the MPO that phones write as .jpg
HEADER = 1 << 16  # bytes of a JPEG in which its EXIF block begins, if it has one
JPEG = b"\xff\xd8"  # how a JPEG begins
SPARE = 3  # a JPEG is decoded to no less than this many times the size it is then resized to
MAX_PIXELS = 100_000_000  # a 100-megapixel picture takes 300 MB decoded; more is a bomb or a mistake


def decode(source: bytes | Path, name: str = "", least: int = 0) -> Image.Image:
    """The first frame of a picture, upright, as 8-bit grey ("L") or colour ("RGB").

    Palette, CMYK, transparency (on white), 16-bit and EXIF rotation are resolved. With `least`, a large JPEG is decoded
    to a half, a quarter or an eighth of its size, its shorter side at least that long. Raises UnreadableImage with a
    code that says why: empty, not an image, truncated, too large."""
    return decoded(source, name, least)[0]


def decoded(source: bytes | Path, name: str = "", least: int = 0) -> tuple[Image.Image, tuple[int, int]]:
    """`decode`, with the picture's own (width, height)."""
    name = name or (source.name if isinstance(source, Path) else "")
    if isinstance(source, Path):
        try:
            source = source.read_bytes()
        except OSError as error:
            raise UnreadableImage("image_not_read", name=name, reason=error.strerror or str(error)) from error
    if not source:
        raise UnreadableImage("image_empty", name=name)
    if source[:2] == JPEG and (quick := _jpeg(source, least)) is not None:
        return Image.fromarray(quick[0]), quick[1]
    picture = _by_pillow(source, name)
    return picture, picture.size


def array_of(content: bytes, name: str, channels: int, least: int = 0) -> np.ndarray:
    """`decode` as an array (height, width, channels), without a copy where there need be none."""
    if content[:2] == JPEG and (quick := _jpeg(content, least)) is not None and (quick[0].ndim, channels) == (3, 3):
        return quick[0]
    picture = decode(content, name, least).convert("L" if channels == 1 else "RGB")
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def _jpeg(content: bytes, least: int) -> tuple[np.ndarray, tuple[int, int]] | None:
    """An ordinary JPEG through libjpeg-turbo, the very pixels that Pillow gives in two thirds of its time, and the
    picture's size; None for what is not ordinary or not sound, which Pillow then judges."""
    try:
        import simplejpeg
    except ImportError:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or width * height > MAX_PIXELS:
            return None
        turn = _orientation(content) if b"Exif" in content[:HEADER] else 1
        divisor = next((d for d in (8, 4, 2) if least and min(width, height) >= d * least), 1)
        array = simplejpeg.decode_jpeg(
            content,
            "GRAY" if colours == "Gray" else "RGB",
            min_height=-(-height // divisor) if divisor > 1 else 0,
            min_width=-(-width // divisor) if divisor > 1 else 0,
        )
    except (ValueError, RuntimeError):
        return None
    array = array[..., 0] if colours == "Gray" else array
    if turn in _TURNS:
        array = np.ascontiguousarray(_TURNS[turn](array))
    return array, (height, width) if turn >= 5 else (width, height)


def _orientation(content: bytes) -> int:
    """How a camera says it was held (EXIF)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(Image.open(io.BytesIO(content), formats=("JPEG",)).getexif().get(0x0112, 1))
    except Exception:  # Pillow's reader of EXIF raises as many kinds of errors as its decoders
        return 1


# How to turn rows and columns upright, by EXIF's orientation.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array.swapaxes(0, 1)[::-1, ::-1],
    8: lambda array: np.rot90(array),
}


def _by_pillow(source: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and of large pictures: we judge ourselves
            picture = Image.open(io.BytesIO(source), formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise UnreadableImage("image_too_large", name=name, width=picture.width, height=picture.height)
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return _plain(picture)
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("image_unknown", name=name) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage("image_too_large", name=name, width="?", height="?") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError ...
        raise UnreadableImage("image_damaged", name=name, reason=str(error) or type(error).__name__) from error


def _plain(picture: Image.Image) -> Image.Image:
    """8 bits, grey or RGB, no palette and no transparency."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _to_8_bit(picture)
    grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:  # an alpha channel, or one see-through colour
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("L" if grey else "RGB")


def _to_8_bit(picture: Image.Image) -> Image.Image:
    """16-bit values are scaled by their full range, not clipped as Pillow's own conversion does: two pictures of one
    camera keep their difference in brightness. 32-bit values have no range of their own: theirs is guessed."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float64))
    highest = values.max(initial=0)
    if picture.mode.startswith("I;16") or highest > 255:
        top = 65535.0
    else:
        top = 1.0 if picture.mode == "F" and highest <= 1 else 255.0
    return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))


def prepared(source: bytes | Path, how: Preprocessing, name: str = "") -> np.ndarray:
    """A picture file as the network's input before normalisation: uint8, (size, size, channels). Raises
    UnreadableImage."""
    return pixels(decode(source, name, least=round(SPARE * how.size / how.crop)), how)


def size_of(content: bytes) -> tuple[int, int] | None:
    """(width, height) of an ordinary JPEG from its header; None for what must be decoded to know."""
    if content[:2] != JPEG:
        return None
    try:
        import simplejpeg

        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
    except (ImportError, ValueError, RuntimeError):
        return None
    turned = b"Exif" in content[:HEADER] and _orientation(content) >= 5
    return (height, width) if turned else (width, height)


def pixels(picture: Image.Image, how: Preprocessing) -> np.ndarray:
    """The picture resized and cropped as `how` says: uint8, (size, size, channels)."""
    picture = picture.convert("L" if how.channels == 1 else "RGB")
    if how.resize == "pad":
        picture = padded(picture, how.size)
    elif picture.size != (how.size, how.size):
        # Only the square that stays is resized: a strip of 1 x 60000 pixels must not become 224 x 13 million.
        width, height = picture.size
        side = how.crop * min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        picture = picture.resize((how.size, how.size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    return np.asarray(picture, dtype=np.uint8).reshape(how.size, how.size, how.channels)


def padded(picture: Image.Image, size: int) -> Image.Image:
    """The whole picture in the middle of a white square of `size` x `size`."""
    if picture.size == (size, size):
        return picture
    share = size / max(picture.size)
    width, height = (max(1, round(each * share)) for each in picture.size)
    square = Image.new(picture.mode, (size, size), "white")
    small = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    square.paste(small, ((size - width) // 2, (size - height) // 2))
    return square
