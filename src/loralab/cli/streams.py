"""Standard error whose reader may leave, as `head` does and a terminal that is closed: the work goes on unheard."""

import errno
import io
import os
from typing import TextIO

_LEFT = (errno.EPIPE, errno.EIO)


class Lasting(io.TextIOBase):
    """A stream that goes nowhere from when nobody reads it on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        if self._stream.closed:  # by whoever it belongs to; Python flushes this one when nobody holds it any more
            return
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """What is still in the buffer, and all that follows, is for nobody."""
        if error.errno not in _LEFT:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding
