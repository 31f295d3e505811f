"""The bytes of a data file, unpacked where they are gzip, and bytes as text."""

import gzip
import zlib
from pathlib import Path

from loralab.errors import DataError, NotFoundError

MARK = b"\xef\xbb\xbf"
"""The byte-order mark of UTF-8."""

GZIP = b"\x1f\x8b"
"""What a gzip file begins with, whatever its name."""


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked, without a byte-order mark.

    Raises `NotFoundError` where there is no such file, `DataError` for one that cannot be read or unpacked.
    """
    if not path.is_file():
        raise NotFoundError(f"data file {path} does not exist; give the path of a data file or folder as --data")
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw.startswith(GZIP) else raw).removeprefix(MARK)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); it may be cut short, or not be yours to read") from error


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
