"""Print results on stdout, and mistakes and warnings, in one line each, on stderr."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

__all__ = ["CommandError", "complain", "show_warning", "write"]


SIGPIPE = 13
"""The signal that ends other programs in this case; Windows has none, and the exit code is the same there."""

CLOSED_PIPE = {errno.EPIPE, errno.EINVAL} if sys.platform == "win32" else {errno.EPIPE}


class CommandError(Exception):
    """A mistake in the arguments; the message says what to type instead."""


def complain(message: object, code: int) -> int:
    """Print a message on stderr, in one line; return `code`."""
    print("poolagg:", " ".join(str(message).split()), file=sys.stderr)
    return code


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning; this replaces `warnings.showwarning`."""
    complain(message, 0)


def write(text: str) -> int:
    """Print a result on stdout; return the exit code."""
    encoding = sys.stdout.encoding
    try:
        # Escape characters that the terminal cannot show: hours of work must not end in an error of the output.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in CLOSED_PIPE:
            raise
        # The reader has closed the pipe (`| head`). Python would fail once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + SIGPIPE
    return 0
