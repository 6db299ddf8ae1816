"""The file in which a training run says what it cost. Reading it needs no torch."""

import json
from os import PathLike
from pathlib import Path


COSTS_NAME = "costs.json"


def read_costs(folder: str | PathLike) -> dict:
    """
    What a run cost: `steps`, `samples`, `tokens` (of text and ECGs, padding left out; None for encoders), `seconds`.

    Raises:
        FileNotFoundError: the folder is of no run that ended.
    """
    path = Path(folder) / COSTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected the output folder of a training run that has ended")
    return json.loads(path.read_text(encoding="utf-8"))
