"""Errors that a user can fix, in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


# What the user can fix: wrong values, missing files or packages, a Hub that cannot be reached.
USER_ERRORS = (ValueError, OSError, ImportError)


@contextmanager
def errors_in_one_line(program: str) -> Iterator[None]:
    """An error that the user can fix ends the program with one line and exit code 1, not with a traceback."""
    try:
        yield
    except USER_ERRORS as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None


def one_line(error: Exception) -> str:
    """The message of an error in one line; for errors of the operating system, the file before what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
