"""An image file as red, green and blue: what is read, how it is converted, what is refused.

It knows PIL alone, nothing of tasks and models.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loralab.errors import DataError
from loralab.extras import lazy

if TYPE_CHECKING:
    from PIL.Image import Image

PIL = lazy("PIL", "images")
pil_image, pil_ops = lazy("PIL.Image", "images"), lazy("PIL.ImageOps", "images")

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""PIL's formats that are read, and how their files' names end; which one a file has, its content says."""

SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

_DAMAGED = (
    *(OSError, EOFError, LookupError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, zlib.error),
)
"""What PIL raises for content that is cut short or broken inside; too large to be meant is an error of its own."""

_WHITE = 65535
"""White in 16 bits: 257 times white in 8 bits."""


def read_image(path: Path) -> "Image":
    """The image with 8 bits each of red, green and blue (mode RGB), upright as its EXIF orientation says.

    As in transformers' pipelines transparency is dropped: a pixel shows the colour that is stored, however transparent.
    Grey gives three equal channels, 16-bit grey is divided by 257, a palette gives its colours, and of several
    frames the first is taken. Raises `DataError` for a file that is not there, or not an image, or damaged,
    or whose grey has no known range.
    """
    return _decode(path, _read_bytes(path))


def examine_image(path: Path) -> str:
    """The SHA-256 of the bytes of an image that `read_image` can read. Raises what that raises."""
    content = _read_bytes(path)
    _decode(path, content)
    return sha256(content).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no image {path}; correct the path, or put the file there") from error
    except (OSError, ValueError) as error:
        raise DataError(f"the image {path} cannot be read ({error})") from error


def _decode(path: Path, content: bytes) -> "Image":
    try:
        with _heeding_bombs_alone(), pil_image.open(BytesIO(content), formats=tuple(FORMATS)) as image:
            return _to_rgb(pil_ops.exif_transpose(image))
    except PIL.UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image ({', '.join(FORMATS)}); replace or remove it") from error
    except (*_DAMAGED, pil_image.DecompressionBombError, pil_image.DecompressionBombWarning) as error:
        raise DataError(f"the image {path} cannot be used ({error}); replace or remove it") from error


@contextmanager
def _heeding_bombs_alone() -> Iterator[None]:
    """What PIL only warns of, more than 89 million pixels, is an error: one such file can take a gigabyte.

    Its other warnings are of tags beside the pixels, as photographs have them damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", pil_image.DecompressionBombWarning)
        yield


def _to_rgb(image: "Image") -> "Image":
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_wide_grey(image).convert("RGB")
    transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    return (image.convert("RGBA") if transparent else image).convert("RGB")


def _from_wide_grey(image: "Image") -> "Image":
    """16 bits of grey as 8; PIL holds some such files in 32 bits. Raises `ValueError` for any other range."""
    grey_HW = np.asarray(image)
    lowest, highest = grey_HW.min(), grey_HW.max()
    if image.mode == "F" or lowest < 0 or highest > _WHITE:
        raise ValueError(f"its grey, from {lowest:g} to {highest:g}, has neither 8 nor 16 bits")
    narrow: Image = pil_image.fromarray(np.rint(grey_HW / (_WHITE / 255)).astype(np.uint8))
    return narrow
