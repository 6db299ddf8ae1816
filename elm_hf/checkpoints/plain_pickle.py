"""Reads pickles of numbers, strings and containers. A file is checked before anything in it is built."""

import pickle
import pickletools
from io import BytesIO
from pathlib import Path


# Limits far above those of a vocabulary: 100,000 tokens of 30 symbols are 3 million numbers.
MAX_BYTES = 64 * 2**20
MAX_OPCODES = 8_000_000
MAX_DEPTH = 6
MAX_INTEGER = 2**63

_SCALARS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_EMPTY = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"}
_FROM_MARK = {"LIST", "DICT", "TUPLE"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_INTO = {"APPEND": 1, "SETITEM": 2, "APPENDS": None, "SETITEMS": None}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
_IMPORTS = {"GLOBAL", "INST", "STACK_GLOBAL"}


def read_plain_pickle(path: Path):
    """
    Reads a pickle of numbers, strings, lists, tuples and dictionaries.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, would import or run something, or is larger, deeper or more entangled than data of
            this kind can be. Nothing was built or executed.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: refused: it has {size:,} bytes; expected at most {MAX_BYTES:,}.")
    data = path.read_bytes()
    try:
        _Check(len(data)).run(data)
        return _PlainUnpickler(BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused, nothing was executed: {error}.") from error
    except (EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: not a readable pickle ({error}).") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it wants to import {module}.{name}; expected numbers, strings and containers")


class _Check:
    """
    Follows the opcodes of a pickle with the depth of each object instead of the object.

    Containers are not shared, so that the size of a file bounds the size, the comparison and the text of what it builds.
    """

    def __init__(self, size: int):
        self._size = size
        # A depth for each object, 0 for a number or string; None for a mark.
        self._stack: list[int | None] = []
        self._memo: dict[int, int] = {}
        self._strings = ["?", "?"]

    def run(self, data: bytes) -> None:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number >= MAX_OPCODES:
                raise pickle.UnpicklingError(f"it has more than {MAX_OPCODES:,} objects")
            self._follow(opcode.name, argument, number)

    def _follow(self, name: str, argument, number: int) -> None:
        if name in _SCALARS:
            if isinstance(argument, int) and abs(argument) >= MAX_INTEGER:
                raise pickle.UnpicklingError(f"it holds a number of {argument.bit_length()} bits; expected at most 63")
            if isinstance(argument, str):
                self._strings = [self._strings[1], argument[:100]]
            self._push(0)
        elif name in _EMPTY:
            self._push(1)
        elif name == "MARK":
            self._stack.append(None)
        elif name in _FROM_MARK:
            self._push(1 + max(self._pop_to_mark(), default=0))
        elif name in _TUPLES:
            self._push(1 + max(self._pop(_TUPLES[name])))
        elif name in _INTO:
            items = self._pop_to_mark() if _INTO[name] is None else self._pop(_INTO[name])
            (container,) = self._pop(1)
            self._push(max(container, 1 + max(items, default=0)))
        elif name in _PUTS:
            self._memoize(len(self._memo) if name == "MEMOIZE" else argument, number)
        elif name in _GETS:
            if self._memo.get(argument) != 0:
                raise pickle.UnpicklingError("it uses a list, tuple or dictionary several times; expected one of each")
            self._push(0)
        elif name in _IMPORTS:
            target = ".".join(self._strings if argument is None else str(argument)[:200].split(" "))
            raise pickle.UnpicklingError(f"it wants to import {target}; expected numbers, strings and containers")
        elif name == "FRAME":
            if argument > self._size:
                raise ValueError(f"a frame of {argument} bytes in a file of {self._size}")
        elif name not in ("PROTO", "STOP"):
            raise pickle.UnpicklingError(f"it has the opcode {name}; expected numbers, strings and containers")

    def _memoize(self, place: int, number: int) -> None:
        if not 0 <= place <= number:
            raise pickle.UnpicklingError(f"it remembers object {place:,} after {number:,}")
        if self._stack[-1] is None:
            raise ValueError("a mark is remembered")
        self._memo[place] = self._stack[-1]

    def _push(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise pickle.UnpicklingError(f"its containers are nested more than {MAX_DEPTH} deep")
        self._stack.append(depth)

    def _pop(self, count: int) -> list[int]:
        if len(self._stack) < count or None in self._stack[-count:]:
            raise ValueError("its stack is too short")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _pop_to_mark(self) -> list[int]:
        taken = []
        while self._stack and self._stack[-1] is not None:
            taken.append(self._stack.pop())
        if not self._stack:
            raise ValueError("a mark is missing")
        self._stack.pop()
        return taken
