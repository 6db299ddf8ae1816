"""The stages of training of a model, with the patients of each, and the check that none of them is held out."""

from transformers.utils import logging
from trl import ModelConfig

from elm_hf.data.patients import patients_of_splits
from elm_hf.data.seen_patients import SEEN_PATIENTS_NAME, Stage, check_not_seen, stage_of, stages_before
from elm_hf.retrieval.index import stages_of_index
from elm_hf.training.arguments import DataArguments


logger = logging.get_logger(__name__)


def stages_with_this_one(
    kind: str, script_args: DataArguments, model_args: ModelConfig, index: str | None = None
) -> list[Stage]:
    """
    The stages of training of the model, with the training patients of each dataset, and those of the encoder that finds
    similar ECGs for its prompts.

    Args:
        kind: kind of this stage (see [`Stage`]).
        script_args, model_args: arguments of the run.
        index: folder of the index of similar ECGs.

    Raises:
        ValueError: the starting checkpoint, or the encoder of the index, was trained on validation or test patients of the
            fold, and `--allow_seen_patients` is not set.
    """
    name = model_args.model_name_or_path
    stages_of = {f"--model_name_or_path {name}": stages_before(name, model_args.model_revision)}
    if index is not None:
        stages_of[f"--rag_index {index}"] = stages_of_index(index)
    splits = {path: patients_of_splits(path, script_args.fold) for path in script_args.dataset}
    held_out = {
        one for found in splits.values() for split, those in found.items() if split != "train" for one in those
    }
    remedy = "give one that has not seen them, or add --allow_seen_patients true, and the model cannot be evaluated on this fold"
    for option, stages in stages_of.items():
        found = check_not_seen(
            option,
            stages,
            held_out,
            f"validation and test patients of fold {script_args.fold}",
            "" if script_args.allow_seen_patients else remedy,
        )
        if not found.known:
            logger.warning(
                f"{option}: the patients that it was trained on are unknown ({SEEN_PATIENTS_NAME} is missing or incomplete); "
                "they may be among the test patients."
            )
    earlier = [stage for stages in stages_of.values() for stage in stages]
    return earlier + [stage_of(kind, path, script_args.fold, found.get("train", ())) for path, found in splits.items()]
