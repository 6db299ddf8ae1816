"""One-line messages for errors that the user can fix."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


LONGEST_MESSAGE = 4000  # characters; text of a damaged file must not fill the screen
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
    return short(error, LONGEST_MESSAGE)


def short(value: object, length: int = 200) -> str:
    """Return a value or an error as one line of text of limited length, which can be encoded in UTF-8."""
    try:
        text = str(value)
    except (ValueError, RecursionError):  # a number with thousands of digits, or deeply nested lists
        text = f"a {type(value).__name__} that cannot be shown"
    if isinstance(value, KeyError):
        text = f"no field {text}"
    text = " ".join(text[: 4 * length].encode("utf-8", "backslashreplace").decode("utf-8").split())
    return text if len(text) <= length else f"{text[: length - 3]}..."
