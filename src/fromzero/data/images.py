"""One picture: from bytes to the array a network sees. The only decoder and the only preprocessing of the project:
training, evaluation, export and serving all come through here. Needs Pillow and NumPy, not torch.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fromzero.errors import UnreadableImage
from fromzero.records import Preprocessing

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # JPEG opens the MPO that phones write as .jpg
MAX_PIXELS = 100_000_000  # a 100-megapixel picture takes 300 MB decoded; more is a bomb or a mistake


def decode(source: bytes | Path, name: str = "") -> Image.Image:
    """The first frame of a picture, upright, as 8-bit grey ("L") or colour ("RGB").

    Palette, CMYK, transparency (on white), 16-bit and EXIF rotation are resolved. Raises UnreadableImage with a code
    that says why: empty, not an image, truncated, too large."""
    name = name or (source.name if isinstance(source, Path) else "")
    if isinstance(source, Path):
        try:
            source = source.read_bytes()
        except OSError as error:
            raise UnreadableImage("image_not_read", name=name, reason=error.strerror or str(error)) from error
    if not source:
        raise UnreadableImage("image_empty", name=name)
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


def pixels(picture: Image.Image, how: Preprocessing) -> np.ndarray:
    """The picture resized and cropped as `how` says: uint8, (size, size, channels)."""
    picture = picture.convert("L" if how.channels == 1 else "RGB")
    if picture.size != (how.size, how.size):
        # Only the square that stays is resized: a strip of 1 x 60000 pixels must not become 224 x 13 million.
        width, height = picture.size
        side = how.crop * min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        picture = picture.resize((how.size, how.size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    return np.asarray(picture, dtype=np.uint8).reshape(how.size, how.size, how.channels)
