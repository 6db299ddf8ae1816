"""`costs.json`, the costs of a training run. It is read without torch; `elm_hf.training.costs` writes it."""

import json
from os import PathLike
from pathlib import Path


COSTS_NAME = "costs.json"


def read_costs(folder: str | PathLike) -> dict:
    """
    The costs of a run: `steps`, `samples`, `tokens` (of text and ECGs, without padding; None for encoders), `seconds` of the
    clock, and `processor_seconds` of the first process.

    Raises:
        FileNotFoundError: the folder is not that of a run that has ended.
    """
    path = Path(folder) / COSTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected the output folder of a training run that has ended")
    return json.loads(path.read_text(encoding="utf-8"))
