"""The bytes of a data file, unpacked where they are gzip, and bytes as text."""

import gzip
import zlib
from io import BytesIO
from pathlib import Path
from typing import Protocol

from loralab.errors import DataError, NotFoundError

MARK = b"\xef\xbb\xbf"
"""The byte-order mark of UTF-8."""

GZIP = b"\x1f\x8b"
"""What a gzip file begins with, whatever its name."""


GROWTH = 100
"""Times: what JSON of few different words may become."""
SMALL = 64 * 2**20
"""Bytes that are no harm, whatever they were."""


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked, without a byte-order mark.

    Raises `NotFoundError` where there is no such file, `DataError` for one that cannot be read or unpacked.
    """
    if not path.is_file():
        raise NotFoundError(f"data file {path} does not exist; give the path of a data file or folder as --data")
    try:
        raw = path.read_bytes()
        return (
            unpacked(path, gzip.GzipFile(fileobj=BytesIO(raw)), len(raw)) if raw.startswith(GZIP) else raw
        ).removeprefix(MARK)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); it may be cut short, or not be yours to read") from error


class Readable(Protocol):
    """What gives so many bytes, or all that are left."""

    def read(self, size: int, /) -> bytes: ...


def unpacked(path: Path, stream: Readable, packed: int) -> bytes:
    """All of a stream that unpacks so many bytes. `DataError` where it grows as no data does, and fills the memory."""
    most = max(SMALL, GROWTH * packed)
    content = stream.read(most + 1)
    if len(content) > most:
        raise DataError(
            f"{path} unpacks to more than {GROWTH} times its {packed:,} bytes, as no data does; unpack it yourself if "
            "that is meant"
        )
    return content


def decode_utf8(where: str, raw: bytes) -> str:
    """Bytes as text. Raises `DataError` with the line of the first byte that is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}, line {line}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def lone_half(text: str) -> str | None:
    """The first half of a UTF-16 pair that stands alone in a text, as it is escaped: no such text can be written."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):04x}"
    return None
