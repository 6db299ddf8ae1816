"""A process that reads MATLAB files for `array_files`, so that a damaged file cannot end the program."""

import json
import os
import sys

import numpy as np
import scipy.io


# Bytes of memory that reading a file may take.
_LARGEST_MEMORY = 2**30


def main() -> None:
    """Answer each line on the standard input, a file, with a line of JSON and the array that was found."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    _limit_memory()
    output.write(b"ready\n")
    output.flush()
    for line in sys.stdin:
        answer, array = _read(**json.loads(line))
        output.write(json.dumps(answer).encode() + b"\n")
        if array is not None:
            output.write(array.tobytes())
        output.flush()


def _limit_memory() -> None:
    try:
        import resource

        with open("/proc/self/statm") as file:
            in_use = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not on Linux
        return
    _, largest = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _LARGEST_MEMORY, largest))


def _read(path: str, num_leads: int) -> tuple[dict, np.ndarray | None]:
    try:
        variables = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    except MemoryError:
        return {"error": f"it needs over {_LARGEST_MEMORY >> 20} MiB of memory"}, None
    except Exception as error:  # SciPy raises many kinds for damaged files
        return {"error": " ".join(str(error).split())[:300] or type(error).__name__}, None
    found = ", ".join(f"{name} {np.shape(value)}" for name, value in variables.items())[:1000]
    fitting = [value for value in variables.values() if _fits(value, num_leads)]
    if len(fitting) != 1:
        return {"found": found}, None
    (array,) = fitting
    return {"found": found, "dtype": array.dtype.str, "shape": array.shape}, array


def _fits(value: object, num_leads: int) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "iuf" and num_leads in value.shape


if __name__ == "__main__":
    main()
