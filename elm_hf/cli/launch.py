"""Starts a training program on several processes, as `accelerate launch` does, with one line instead of a traceback."""

import argparse
import logging
from collections.abc import Collection, Sequence

from elm_hf.utils.recipes import recipe_path


# Options of `accelerate launch` that begin a launch; with one of them, all of its options are taken.
LAUNCHING = (
    *("config_file", "num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"),
    *("multi_gpu", "gpu_ids", "use_fsdp", "use_deepspeed"),
)


def is_launch(arguments: Sequence[str]) -> bool:
    """Whether there is an option that begins a launch."""
    return any(_name(word) in LAUNCHING for word in arguments)


def launch(module: str, arguments: Sequence[str], own: Collection[str]) -> None:
    """
    Runs a training program on several processes, and ends with its exit code if it fails.

    Args:
        module: the program.
        arguments: options of `accelerate launch` and of the program.
        own: names of the program's options, which are never those of the launch.

    Raises:
        FileNotFoundError: `--config_file` is neither a file nor a recipe.
        ValueError: accelerate refuses the options of the launch.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parser = launch_command_parser()
    of_launch, rest = split_options(parser, arguments, own)
    chosen = parser.parse_args([*of_launch, "--module", module, *rest])
    chosen.quiet = True  # no traceback of its own
    if chosen.config_file is not None:
        chosen.config_file = str(recipe_path(chosen.config_file, "--config_file"))
    else:
        _set_defaults(chosen)
    # Its messages about a process that has failed add nothing to the line that this process has printed.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(chosen)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        raise SystemExit(next((code for code in codes if code > 0), 1)) from None


def split_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str], own: Collection[str]
) -> tuple[list[str], list[str]]:
    """
    Splits arguments into those of a parser and all others.

    Args:
        parser: of `accelerate launch`.
        arguments: the arguments.
        own: names of options that are not the parser's although it has them.
    """
    actions = {_name(option): action for action in parser._actions for option in action.option_strings}
    actions.pop(None)  # short options
    taken, rest, words = [], [], list(arguments)
    while words:
        word = words.pop(0)
        action = actions.get(_name(word))
        if action is None or _name(word) in own:
            rest.append(word)
            continue
        taken.append(word)
        if action.nargs is None and "=" not in word and words:
            taken.append(words.pop(0))
    return taken, rest


def _set_defaults(chosen: argparse.Namespace) -> None:
    """
    Sets what `accelerate launch` would warn of having set, and starts several processes on CPUs as well, where it would
    start one.
    """
    import torch

    chosen.num_machines = chosen.num_machines or 1
    chosen.num_processes = chosen.num_processes or max(1, torch.cuda.device_count()) * chosen.num_machines
    chosen.mixed_precision = chosen.mixed_precision or "no"
    chosen.dynamo_backend = chosen.dynamo_backend or "no"
    if chosen.num_processes > 1 and not (chosen.use_fsdp or chosen.use_deepspeed):
        chosen.multi_gpu = True


def _name(word: str) -> str | None:
    """The name of an option: `num_processes` of `--num-processes=2`; None for a value."""
    return word.partition("=")[0][2:].replace("-", "_") if word.startswith("--") else None
