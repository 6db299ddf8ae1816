"""Seeded changes of the settings of a checkpoint, as a stranger's file may have them."""

import json
import random
import shutil
from pathlib import Path


FILES = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json")
VALUES = (
    *(None, True, "", "x", [], {}, [[]], {"a": 1}, -1, 0, 1.5, 10**9, 10**30, -(10**30), 1e308, "\ud800", [10**9]),
    *("{{ ''|center(2000000000) }}", "../../x", [None] * 3, {"model_type": "bert"}, "9" * 5000),
)


def places(settings, path: tuple = ()) -> list[tuple]:
    """The paths to all values."""
    found = [] if path == () else [path]
    items = (
        settings.items() if isinstance(settings, dict) else enumerate(settings) if isinstance(settings, list) else ()
    )
    for key, value in items:
        found += places(value, (*path, key))
    return found


def changed_copy(checkpoint: Path, folder: Path, seed: int) -> str:
    """Copies a checkpoint with one changed, removed or added setting, and returns what was changed."""
    generator = random.Random(seed)
    shutil.copytree(checkpoint, folder)
    file = folder / generator.choice(FILES)
    settings = json.loads(file.read_text())
    place = generator.choice(places(settings))
    parent = settings
    for key in place[:-1]:
        parent = parent[key]
    action = generator.choice(("change", "change", "change", "remove"))
    if action == "remove":
        del parent[place[-1]]
        value = "removed"
    else:
        parent[place[-1]] = value = generator.choice(VALUES)
    file.write_text(json.dumps(settings))
    return f"{file.name} {place}: {value!r:.60}"
