"""Recipes: YAML files with the arguments of a training run that are part of elm-hf and have a short name."""

import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path


def recipe_names() -> dict[str, str]:
    """Return the name of each recipe, such as `quickstart` or `ecg_lm/2_alignment`, and its description."""
    folder = _folder()
    return {
        path.relative_to(folder).with_suffix("").as_posix(): _first_comment(path)
        for path in sorted(folder.rglob("*.yaml"))
    }


def recipe_path(name: str, option: str = "--config") -> Path:
    """
    Return the path of a recipe.

    Args:
        name: path of a YAML file, or name of a recipe of elm-hf.
        option: option that names it, for the error.

    Raises:
        FileNotFoundError: there is neither such a file nor such a recipe.
    """
    return _path(name, ".yaml", option, f"a recipe; available recipes: {', '.join(recipe_names())}")


def model_names() -> list[str]:
    """The names of the new models that recipes train: files with fields of `ElmConfig`, such as `quickstart_elm`."""
    folder = _folder()
    paths = [path for path in sorted(folder.rglob("*.json")) if "smoke" not in path.parts]
    paths = [path for path in paths if '"text_config"' in path.read_text(encoding="utf-8")]
    return [path.relative_to(folder).with_suffix("").as_posix() for path in paths]


def model_path(name: str) -> Path:
    """
    Return the path of the settings of a new model.

    Args:
        name: path of a JSON file, or name of one that is part of elm-hf.

    Raises:
        FileNotFoundError: there is neither such a file nor such settings.
    """
    return _path(name, ".json", "--config", f"settings of a new model; available are {', '.join(model_names())}")


def _path(name: str, ending: str, option: str, available: str) -> Path:
    path = Path(name) if Path(name).is_file() else _folder() / f"{name}{ending}"
    if not path.is_file():
        raise FileNotFoundError(f"{option} {name}: neither a file nor {available}")
    return path


def with_recipe(arguments: Sequence[str] | None = None) -> list[str]:
    """Replace a recipe name after `--config` by its path. `arguments` defaults to the arguments of this process."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--config" in arguments[:-1]:
        place = arguments.index("--config") + 1
        arguments[place] = str(recipe_path(arguments[place]))
    return arguments


def _folder() -> Path:
    return Path(str(files("elm_hf.recipes")))


def _first_comment(path: Path) -> str:
    """The first sentence of the comment at the start of a file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    text = " ".join(lines)
    return re.split(r"(?<!et al)\.(?:\s|$)", text)[0]
