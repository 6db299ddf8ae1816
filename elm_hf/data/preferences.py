"""
Pairs of answers to the questions of a dataset, one preferred to the other: a JSON Lines file.

Each line has `conversation_id` and `turn` (which answer of the conversation it is, counted from 0), `chosen` and
`rejected`. Prompts and ECGs are those of the dataset.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

from elm_hf.utils.files import write_atomically


@dataclass(frozen=True)
class Preference:
    """
    A pair of answers to a question.

    Attributes:
        conversation_id: of the conversation in the dataset.
        turn: which of its answers, counted from 0.
        chosen, rejected: the better and the worse answer.
    """

    conversation_id: str
    turn: int
    chosen: str
    rejected: str


_TYPES = {"conversation_id": str, "turn": int, "chosen": str, "rejected": str}


def read_preferences(path: str | PathLike) -> list[Preference]:
    """
    Read pairs of answers.

    Args:
        path: JSON Lines file; other fields than those of [`Preference`] are ignored.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it has no pairs, or a line is not a pair of two different answers; the message has its number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; elm-hf prepare preferences writes such a file")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            values = {name: fields[name] for name in _TYPES}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number}: expected JSON with {', '.join(_TYPES)} ({type(error).__name__}: {error})"
            ) from error
        wrong = [name for name, kind in _TYPES.items() if type(values[name]) is not kind]
        if wrong or values["turn"] < 0:
            name = (wrong or ["turn"])[0]
            raise ValueError(f"{path}, line {number}: {name} is {values[name]!r}; expected {_TYPES[name].__name__}")
        if values["chosen"].strip() == values["rejected"].strip():
            raise ValueError(f"{path}, line {number}: chosen and rejected are the same answer")
        pairs.append(Preference(**values))
    if not pairs:
        raise ValueError(f"{path}: no pairs of answers")
    return pairs


def write_preferences(pairs: Iterable[Preference], path: str | PathLike) -> None:
    """Write pairs of answers as JSON Lines."""
    lines = [json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs]
    write_atomically(Path(path), "".join(lines))
