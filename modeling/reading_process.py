# Copyright 2026 The elm-hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Reads files with a library that a damaged file can crash, hang or fill the memory with: in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Timer

import numpy as np


# Bytes of memory that reading a file may take.
_LARGEST_MEMORY = 2**30


class ReadingProcess:
    r"""
    A process that reads files, one after the other. If it dies, the next file starts a new one.

    Args:
        arguments (`list[str]`):
            Arguments of the Python interpreter. The program that they run calls [`~reading_process.serve`].
        name (`str`):
            Name of the reader in error messages.
    """

    def __init__(self, arguments: list[str], name: str):
        self.arguments = arguments
        self.name = name
        self._process: subprocess.Popen | None = None

    def read(self, request: dict, seconds: float) -> dict:
        r"""
        Reads a file.

        Args:
            request (`dict`):
                Arguments of the function that the process serves, as JSON can represent them.
            seconds (`float`):
                Longest time that reading may take.

        Returns:
            `dict`: What the function returns, with its array as `array`, which is `None` if there is none; or the
            cause as `error`.
        """
        expired = []
        process = self._running()

        def end() -> None:
            expired.append(True)
            process.kill()

        timer = Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            found = json.loads(process.stdout.readline())
            if "dtype" in found:
                dtype, shape = np.dtype(found["dtype"]), found["shape"]
                data = process.stdout.read(dtype.itemsize * shape[0] * shape[1])
                found["array"] = np.frombuffer(data, dtype).reshape(shape)
            return {"array": None} | found
        except (ValueError, OSError):  # the process ended
            self.close()
            cause = f"reading took over {seconds:.0f} s" if expired else f"the {self.name} crashed"
            return {"error": f"damaged, {cause}"}
        finally:
            timer.cancel()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with suppress(OSError):  # of what had not been sent when the process ended
                self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            self.close()
            # The first line comes when the libraries are imported, which does not count as time for reading.
            self._process = subprocess.Popen(
                [sys.executable, *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            self._process.stdout.readline()
        return self._process


def serve(read: Callable[..., tuple[dict, np.ndarray | None]]) -> None:
    r"""
    Answers each line on the standard input, a request, with a line of JSON and the array that was found.

    Args:
        read (`Callable`):
            Function of the fields of a request that returns a dictionary and an array of shape `(rows, columns)` or
            `None`.
    """
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    _limit_memory()
    output.write(b"ready\n")
    output.flush()
    for line in sys.stdin:
        answer, array = _answer(read, json.loads(line))
        if array is not None:
            answer |= {"dtype": array.dtype.str, "shape": array.shape}
        output.write(json.dumps(answer).encode() + b"\n")
        if array is not None:
            output.write(array.tobytes())
        output.flush()


def _answer(read: Callable, request: dict) -> tuple[dict, np.ndarray | None]:
    try:
        return read(**request)
    except MemoryError:
        return {"error": f"it needs over {_LARGEST_MEMORY >> 20} MiB of memory"}, None
    except Exception as error:  # libraries raise many kinds for damaged files
        return {"error": " ".join(str(error).split())[:300] or type(error).__name__}, None


def _limit_memory() -> None:
    try:
        import resource

        with open("/proc/self/statm") as file:
            in_use = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not on Linux
        return
    _, largest = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _LARGEST_MEMORY, largest))


__all__ = ["ReadingProcess", "serve"]
