"""The stages of training of a model, with the patients of each, and the check that none of them is held out."""

from transformers.utils import logging
from trl import ModelConfig

from elm_hf.data.patients import patients_of_splits
from elm_hf.data.seen_patients import SEEN_PATIENTS_NAME, Stage, check_not_seen, stage_of, stages_before
from elm_hf.training.arguments import DataArguments


logger = logging.get_logger(__name__)


def stages_with_this_one(kind: str, script_args: DataArguments, model_args: ModelConfig) -> list[Stage]:
    """
    The stages of training of the model, with the training patients of each dataset.

    Args:
        kind: kind of this stage (see [`Stage`]).
        script_args, model_args: arguments of the run.

    Raises:
        ValueError: the starting checkpoint was trained on validation or test patients of the fold, and
            `--allow_seen_patients` is not set.
    """
    name = model_args.model_name_or_path
    stages = stages_before(name, model_args.model_revision)
    splits = {path: patients_of_splits(path, script_args.fold) for path in script_args.dataset}
    held_out = {
        one for found in splits.values() for split, those in found.items() if split != "train" for one in those
    }
    remedy = (
        "start from a checkpoint that has not seen them, or add --allow_seen_patients true, and the model cannot be "
        "evaluated on this fold"
    )
    found = check_not_seen(
        f"--model_name_or_path {name}",
        stages,
        held_out,
        f"validation and test patients of fold {script_args.fold}",
        "" if script_args.allow_seen_patients else remedy,
    )
    if not found.known:
        logger.warning(
            f"{name}: the patients that it was trained on are unknown ({SEEN_PATIENTS_NAME} is missing or incomplete); "
            "they may be among the test patients."
        )
    return stages + [stage_of(kind, path, script_args.fold, found.get("train", ())) for path, found in splits.items()]
