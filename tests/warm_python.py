"""
Fresh processes that do not import the libraries again: `run_python(["-c", code])` is `subprocess.run([sys.executable, "-c", code])`.

Importing torch, transformers and trl takes seconds, the program of a test often less than one. So an interpreter imports them once, and
nothing of elm-hf, and forks itself for each program, which has arguments, an environment, a folder and a `__main__` of its own. Tests of
what is imported, and of programs that must not find a library, start processes with `subprocess`.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import re
import runpy
import select
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
# The libraries of the Hub read these variables when they are imported. A program with others than the tests' imports them itself. What
# `elm_hf.cli` sets for the rest of a process, so that less is printed, makes no difference.
READ_ON_IMPORT = re.compile("(HF|HUGGINGFACE|TRANSFORMERS)_(?!.*(VERBOSITY|PROGRESS_BARS)).*|XDG_CACHE_HOME|HOME")
LARGE = (
    *("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.run", "torch.distributed.tensor", "torch.export"),
    *("pandas", "pyarrow.parquet", "scipy.optimize", "scipy.signal", "sklearn.metrics"),
)
OF_THE_HUB = (
    *("accelerate.commands.launch", "datasets", "peft", "transformers.image_processing_utils", "transformers.trainer"),
    *("transformers.models.auto.processing_auto", "trl", "trl.trainer.sft_trainer"),
)


def run_python(command: Sequence, env: Mapping | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Runs what follows `python` on a command line: "-c" and code, "-m" and a module, or a script, and their arguments."""
    process = start_python(command, env, cwd)
    return subprocess.CompletedProcess(command, process.wait(), process.output.read_text(), process.error.read_text())


def start_python(command: Sequence, env: Mapping | None = None, cwd: Path | None = None) -> "Process":
    """Starts what `run_python` runs."""
    environment = os.environ if env is None else env
    same = _read_on_import(environment) == _read_on_import(_environment)
    return (_with_all_libraries() if same else _with_large_libraries()).start(command, environment, cwd or Path.cwd())


@contextlib.contextmanager
def interpreters(environment: Mapping):
    """Programs are started in here; most of them have this environment."""
    _environment.update(environment, OMP_NUM_THREADS="1")
    yield
    for interpreter in reversed(_started[:]):
        interpreter.end()


_environment, _started = {}, []


def _read_on_import(environment: Mapping) -> dict:
    return {name: value for name, value in environment.items() if READ_ON_IMPORT.fullmatch(name)}


@cache
def _with_large_libraries() -> "Interpreter":
    return Interpreter(
        LARGE, lambda words: subprocess.Popen([sys.executable, *words], env=_environment, stdin=subprocess.DEVNULL)
    )


@cache
def _with_all_libraries() -> "Interpreter":
    return interpreter_for(_environment)


def interpreter_for(environment: Mapping) -> "Interpreter":
    """One for several programs with the same settings of the Hub, which are not those of the tests."""
    large = _with_large_libraries()
    return Interpreter(OF_THE_HUB, lambda words: large.start(words, environment, ROOT))


class Interpreter:
    """An interpreter that has imported `modules`. `start` starts Python with the arguments that it is given."""

    def __init__(self, modules: Sequence[str], start: Callable):
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._address = Path(self._folder.name) / "socket"
        self._process = start([__file__, str(self._address), str(os.getpid()), *modules])
        self._count = 0
        _started.append(self)
        while not self._address.exists():
            assert self._process.poll() is None, f"the interpreter with {', '.join(modules)} has ended"
            time.sleep(0.02)

    def start(self, command: Sequence, environment: Mapping, folder: Path) -> "Process":
        self._count += 1
        output, error = (Path(self._folder.name) / f"{self._count}.{name}" for name in ("output", "error"))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._address))
        request = [[*map(str, command)], dict(environment), str(folder), str(output), str(error)]
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Process(connection, output, error)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()
        _started.remove(self)


class Process:
    """A running program. `output` and `error` are the files with what it prints."""

    def __init__(self, connection: socket.socket, output: Path, error: Path):
        self._answers, self.output, self.error = connection.makefile("rb", buffering=0), output, error
        self.pid, self._exit_code = int(self._answers.readline()), None

    def wait(self) -> int:
        """The exit code; that of a program that was killed is the negative number of the signal."""
        if self._exit_code is None:
            self._exit_code = int(self._answers.readline())
        return self._exit_code

    def poll(self) -> int | None:
        """The exit code, or None as long as the program runs."""
        ended, _, _ = select.select([self._answers], [], [], 0)
        return self.wait() if ended else None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


# In the interpreter with the libraries


class _Requests(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Ends with the process of the tests."""

    max_children = 1000

    def service_actions(self):
        super().service_actions()
        try:
            os.kill(int(sys.argv[2]), 0)
        except ProcessLookupError:
            os._exit(0)


class _Request(socketserver.StreamRequestHandler):
    def handle(self):
        arguments = json.loads(self.rfile.readline())
        process = multiprocessing.get_context("fork").Process(target=_run, args=arguments)
        process.start()
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it
            self.wfile.write(f"{process.pid}\n".encode())
            process.join()
            self.wfile.write(f"{process.exitcode}\n".encode())


def _run(command: list[str], environment: dict[str, str], folder: str, output: str, error: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for path, number in ((output, 1), (error, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    kind, *arguments = command
    try:
        if kind == "-c":
            sys.argv, sys.path[0] = ["-c", *arguments[1:]], ""
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(arguments[0], "<string>", "exec"), main.__dict__)
        elif kind == "-m":
            sys.argv, sys.path[0] = arguments, folder
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = command, str(Path(kind).parent)
            runpy.run_path(kind, run_name="__main__")
    except Exception:
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    gc.disable()
    for name in sys.argv[3:]:
        importlib.import_module(name)
    gc.freeze()  # a collection in a program neither looks through the libraries' objects nor copies their memory
    gc.enable()
    path = sys.argv[1]
    with _Requests(f"{path}.bound", _Request) as server:
        os.rename(f"{path}.bound", path)  # now it listens
        server.serve_forever()
