"""One-line messages for errors that the user can fix."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


# Errors that the user can fix: wrong values, missing files or packages, a Hub that cannot be reached.
USER_ERRORS = (ValueError, OSError, ImportError)


@contextmanager
def errors_in_one_line(program: str) -> Iterator[None]:
    """Exit with a one-line message and exit code 1, instead of a traceback, on an error that the user can fix."""
    try:
        yield
    except USER_ERRORS as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None


def one_line(error: Exception) -> str:
    """Return the message of an error as one line. An operating system error starts with the file name."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
