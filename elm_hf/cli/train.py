"""Subcommands that train: `train`, `pretrain`, and `recipes`, which lists their settings."""

import argparse
import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import app
from elm_hf.cli.launch import is_launch, launch
from elm_hf.training.arguments import ElmScriptArguments, PreferenceArguments, RewardArguments
from elm_hf.utils.recipes import recipe_names, recipe_path, with_recipe


# The options are fields of dataclasses, which TRL parses.
_TRAINING = {"add_help_option": False, "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True}}
# Ways of training and their options, each a module of `elm_hf.training`.
_METHODS = {
    "sft": ElmScriptArguments,
    "dpo": PreferenceArguments,
    "kto": PreferenceArguments,
    "grpo": RewardArguments,
    "rloo": RewardArguments,
}
_LAUNCH = (
    "\nOn several GPUs or nodes: the options of accelerate launch, such as --num_processes 4 or --config_file accelerate/fsdp2 (a "
    "file or a recipe)."
)
_OTHERS = {
    f"train {method}": f"All fields of TRL's {method.upper()}Config (with transformers' TrainingArguments) and ModelConfig "
    f"are options as well. --help-all lists them; huggingface.co/docs/trl/{method}_trainer explains them."
    for method in _METHODS
}
_OTHERS |= {
    "train": _OTHERS.pop("train sft") + "\nOther ways of training: elm-hf train dpo | kto | grpo | rloo.",
    "pretrain": "All fields of transformers' TrainingArguments are options as well. --help-all lists them; "
    "huggingface.co/docs/transformers/main_classes/trainer explains them.",
}


@app.command(**_TRAINING)
def train(context: typer.Context):
    """
    Train an ECG-language model with TRL (--help lists the options).

    Without a word it is fine-tuned on conversations (sft); elm-hf train dpo and kto learn from pairs of answers, elm-hf
    train grpo and rloo from rewards.
    """
    from elm_hf.training.augmentation import EcgAugmentation, EcgImageAugmentation

    words = context.args
    method = words[0] if words and not words[0].startswith("-") else "sft"
    if method not in _METHODS:
        raise ValueError(f"elm-hf train {method}: unknown; there are {', '.join(_METHODS)} (default: sft)")
    options = {"sft": (ElmScriptArguments, EcgAugmentation, EcgImageAugmentation)}.get(method, (_METHODS[method],))
    command = "train" if method == "sft" else f"train {method}"
    arguments = _checked(command, words[1:] if words[:1] == [method] else words, options)
    if arguments is None:
        return
    _run(f"elm_hf.training.{method}", arguments)


@app.command(**_TRAINING)
def pretrain(context: typer.Context):
    """Pre-train an ECG encoder (--help lists the options)."""
    from elm_hf.pretrain.arguments import PretrainArguments
    from elm_hf.training.augmentation import EcgAugmentation

    arguments = _checked("pretrain", context.args, (PretrainArguments, EcgAugmentation))
    if arguments is None:
        return
    _run("elm_hf.pretrain.__main__", arguments)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe whose path to print. Default: list all recipes.")] = None,
):
    """List the recipes for --config of train and pretrain, or print the path of one."""
    if name is not None:
        typer.echo(recipe_path(name))
        return
    names = recipe_names()
    width = max(map(len, names))
    for each, says in names.items():
        typer.echo(f"{each:{width}}  {says}")


def _run(module: str, arguments: list[str]) -> None:
    """Runs a training program: on this process, or with options of `accelerate launch` on those that it starts."""
    program = importlib.import_module(module)
    if not is_launch(arguments):
        program.main(arguments)
        return
    own = {field.name for each in program.ARGUMENTS for field in dataclasses.fields(each)} | {"config", "help"}
    launch(module, arguments, own)


def _checked(command: str, arguments: Sequence[str], options: tuple) -> list[str] | None:
    """
    Resolves the recipe and checks that datasets and checkpoints exist, without importing torch. Returns the arguments
    with the path of the recipe, or None if help was printed.
    """
    parser = argparse.ArgumentParser(
        f"elm-hf {command}", usage=f"elm-hf {command} [OPTIONS]", allow_abbrev=False, add_help=False
    )
    parser.add_argument(
        "--config", metavar="RECIPE", help="YAML file with options, or name of a recipe (elm-hf recipes lists them)."
    )
    for each in options:
        for field in dataclasses.fields(each):
            parser.add_argument(
                f"--{field.name}", metavar=_metavar(field), help=field.metadata["help"].replace("%", "%%")
            )
    if {"-h", "--help"} & set(arguments) or not arguments:
        typer.echo(f"{parser.format_help().replace('usage:', 'Usage:', 1)}\n{_OTHERS[command]}{_LAUNCH}")
        return None
    arguments = ["--help" if word == "--help-all" else word for word in with_recipe(arguments)]
    _check_names(arguments)
    return arguments


def _metavar(field: dataclasses.Field) -> str:
    kind = str(getattr(field.type, "__name__", field.type)).removesuffix(" | None")
    words = {"bool": "BOOL", "int": "NUMBER", "float": "NUMBER", "str": "TEXT"}
    return next((shown for word, shown in words.items() if word in kind), "TEXT") + (" ..." if "list" in kind else "")


def _check_names(arguments: list[str]) -> None:
    """Checks that datasets, checkpoints and pairs of answers exist; the command line takes precedence over the recipe."""
    from elm_hf.data.layout import check_dataset
    from elm_hf.data.preferences import read_preferences
    from elm_hf.utils.hub import check_name

    given = _recipe_values(arguments)
    finder = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("dataset", "fold", "model_name_or_path", "held_out_dataset", "preferences"):
        finder.add_argument(f"--{name}", nargs="+" if name == "dataset" else None)
    found, _ = finder.parse_known_args(arguments)
    given |= {name: value for name, value in vars(found).items() if value is not None}
    datasets = given.get("dataset") or []
    datasets = [datasets] if isinstance(datasets, str) else [*datasets]
    for path in datasets + [each for each in [given.get("held_out_dataset")] if each]:
        check_dataset(str(path), given.get("fold"))
    if given.get("preferences"):
        read_preferences(given["preferences"])
    if given.get("model_name_or_path") is not None:
        check_name(str(given["model_name_or_path"]))


def _recipe_values(arguments: list[str]) -> dict:
    if "--config" not in arguments[:-1]:
        return {}
    import yaml

    path = Path(arguments[arguments.index("--config") + 1])
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: not a recipe; expected options, one `name: value` per line")
    return values
