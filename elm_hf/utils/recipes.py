"""Recipes: YAML files with the settings of a training run, named without a path."""

import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path


def recipe_names() -> dict[str, str]:
    """The name of each recipe, such as `quickstart` or `ecg_lm/2_alignment`, and what its first comment says."""
    folder = _folder()
    return {
        path.relative_to(folder).with_suffix("").as_posix(): _first_comment(path)
        for path in sorted(folder.rglob("*.yaml"))
    }


def recipe_path(name: str) -> Path:
    """
    The file of a recipe: a YAML file, or the name of a recipe that comes with elm-hf.

    Raises:
        FileNotFoundError: it is neither.
    """
    if Path(name).is_file():
        return Path(name)
    path = _folder() / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"--config {name}: no such file, and no recipe; there are {', '.join(recipe_names())}")
    return path


def with_recipe(arguments: Sequence[str] | None = None) -> list[str]:
    """The arguments of a command (of this process by default), with the path of the recipe after `--config`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--config" in arguments[:-1]:
        place = arguments.index("--config") + 1
        arguments[place] = str(recipe_path(arguments[place]))
    return arguments


def _folder() -> Path:
    return Path(str(files("elm_hf.recipes")))


def _first_comment(path: Path) -> str:
    """The first sentence of the comment that a file opens with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    text = " ".join(lines)
    return re.split(r"(?<!et al)\.(?:\s|$)", text)[0]
