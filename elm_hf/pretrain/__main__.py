"""
Pre-trains an ECG encoder on the records of elm-hf datasets: masked autoencoding, contrastive learning with reports, or
classification. `elm-hf pretrain` is the same program on one process.

    accelerate launch -m elm_hf.pretrain --config pretrain_st_mem
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import TrainingArguments, set_seed
from transformers.utils import logging
from trl import TrlParser

from elm_hf.checkpoints.encoder import encoder_type
from elm_hf.data.label_tasks import PTB_XL_TASKS
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.patients import patients_of
from elm_hf.data.seen_patients import Stage, check_not_seen, stages_before
from elm_hf.modeling.configuration_elm import ECG_ENCODER_TYPES
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.processing_elm_base import remove_loading_notes
from elm_hf.pretrain.arguments import PretrainArguments
from elm_hf.pretrain.data import EcgPretrainingCollator, PretrainingRecords, load_pretraining_records
from elm_hf.pretrain.encoder import TARGETS, load_encoder_to_train
from elm_hf.pretrain.reconstruction import ReconstructionPlots
from elm_hf.pretrain.trainer import PretrainTrainer, TaskAurocs
from elm_hf.training.augmentation import EcgAugmentation
from elm_hf.training.checks import check_length, check_not_the_start
from elm_hf.training.costs import RunCosts
from elm_hf.training.epochs import FollowEpoch
from elm_hf.training.parallelism import end_processes
from elm_hf.training.pushing import check_push
from elm_hf.training.resume import check_same_patients, checkpoint_to_continue, run_settings
from elm_hf.training.rows import load_sources
from elm_hf.training.validation import check_evaluation, evaluates, evaluation_callbacks
from elm_hf.utils.encoder_origin import known_sources, known_sources_message
from elm_hf.utils.errors import errors_in_one_line
from elm_hf.utils.recipes import with_recipe


logger = logging.get_logger(__name__)

ARGUMENTS = (PretrainArguments, TrainingArguments, EcgAugmentation)
CLASSIFIED = ("class", "labels")


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Trains and saves an encoder, and pushes it to the Hub if requested.

    Args:
        arguments: command-line arguments. Defaults to those of this process.
    """
    with errors_in_one_line("elm-hf pretrain"):
        parsed = parse(arguments)
        trainer = build_trainer(*parsed)
    train(trainer, parsed[0].dataset)


def parse(arguments: Sequence[str] | None = None) -> tuple:
    """Parses arguments into instances of `ARGUMENTS`; `--config` takes a YAML file or the name of a recipe."""
    return TrlParser(ARGUMENTS).parse_args_and_config(with_recipe(arguments))


def build_trainer(
    script_args: PretrainArguments, training_args: TrainingArguments, augmentation: EcgAugmentation
) -> PretrainTrainer:
    """Builds the trainer of a run, ready to start or to resume from its last checkpoint."""
    check_push(training_args)
    check_length(training_args)
    if script_args.encoder not in ECG_ENCODER_TYPES:
        check_not_the_start(training_args, script_args.encoder)
    target = target_of(encoder_type(script_args.encoder), script_args.target)
    possible_tasks = PTB_XL_TASKS if target == "labels" else ()
    check_evaluation(training_args, script_args.early_stopping_patience, _metrics(possible_tasks))
    run = run_settings(training_args, script_args, augmentation)
    training_args.resume_from_checkpoint = checkpoint_to_continue(
        training_args.resume_from_checkpoint, training_args.output_dir, run
    )
    set_seed(training_args.seed)

    records = load_pretraining_records(script_args.dataset, script_args.fold, target, script_args.held_out_dataset)
    if evaluates(training_args):
        _check_has_validation(script_args, records)
    if records.tasks is not None:
        check_evaluation(training_args, script_args.early_stopping_patience, _metrics(records.tasks.tasks))
    stages = _stages_before(script_args) + records.stages
    check_same_patients(training_args.resume_from_checkpoint, stages)
    first = records.train[0]
    model, feature_extractor, tokenizer = load_encoder_to_train(script_args, records.classes, first)
    if known := known_sources(model.config, load_sources(script_args.dataset)):
        logger.warning(f"{script_args.encoder}: {known_sources_message(known)}")
    # Records that are too short are refused before training; all have the same length and rate.
    feature_extractor(first["ecg"], sampling_rate=first["sampling_rate"], lead_names=list(LEADS))

    training_args.remove_unused_columns = False
    if target == "labels":
        model.config.problem_type = "multi_label_classification"
    training_args.label_names = ["labels"] if target in CLASSIFIED else []
    plots = None
    if target is None:
        plots = ReconstructionPlots(feature_extractor, records.validation or records.train, script_args.num_plots)
    collator = EcgPretrainingCollator(
        feature_extractor,
        tokenizer,
        augmentation if augmentation != EcgAugmentation() else None,
        training_args.seed,
        script_args.crop_seconds,
    )
    trainer = PretrainTrainer(
        model=model,
        args=training_args,
        train_dataset=records.train,
        eval_dataset=records.validation,
        data_collator=collator,
        processing_class=feature_extractor,
        compute_metrics=None if records.tasks is None else TaskAurocs(records.tasks),
        callbacks=[
            FollowEpoch(collator),
            RunCosts(len(records.train)),
            *evaluation_callbacks(script_args.early_stopping_patience),
        ],
        run=run,
        target=target or "reconstruction",
        stages=stages,
        text_tokenizer=tokenizer,
        plots=plots,
    )
    trainer.accelerator.print(
        f"{model.config.model_type}: {model.num_parameters():,} parameters, {len(records.train):,} training records, "
        f"{len(records.validation or []):,} validation records, {records.num_left_out:,} omitted"
    )
    return trainer


def target_of(model_type: str, target: str | None) -> str | None:
    """
    What an encoder learns: `target`, by default that of its type.

    Raises:
        ValueError: encoders of this type cannot learn it.
    """
    default = TARGETS.get(model_type)
    if target is None or target == default:
        return default
    if target not in CLASSIFIED or default not in CLASSIFIED:
        choices = CLASSIFIED if default in CLASSIFIED else (default or "reconstruction, without --target",)
        raise ValueError(f"--target {target}: {model_type} encoders can learn {' or '.join(choices)}.")
    return target


def _metrics(tasks: Iterable[str]) -> list[str]:
    """Names that `--metric_for_best_model` may have."""
    return ["loss", *(f"auroc_{task}" for task in tasks)]


def _stages_before(script_args: PretrainArguments) -> list[Stage]:
    """The stages of training of a checkpoint to continue from, which must not have seen the fold's held-out patients."""
    if script_args.encoder in ECG_ENCODER_TYPES:
        return []
    stages = stages_before(script_args.encoder)
    if script_args.fold is not None:
        held_out = set().union(*(patients_of(path, script_args.fold, held_out=True) for path in script_args.dataset))
        check_not_seen(
            f"--encoder {script_args.encoder}",
            stages,
            held_out,
            f"validation and test patients of fold {script_args.fold}",
            "continue from an encoder that has not seen them",
        )
    return stages


def _check_has_validation(script_args: PretrainArguments, records: PretrainingRecords) -> None:
    """Checks that there are records to evaluate on. The error of a dataset without them says how to build it again."""
    if script_args.fold is None:
        raise ValueError("--eval_strategy evaluates on the validation patients of a fold; name the fold (--fold).")
    for path in script_args.dataset:
        load_elm_dataset(path, script_args.fold, "validation")
    if records.validation is None:
        raise ValueError(
            f"--eval_strategy: none of the validation records of fold {script_args.fold} can be used; leave it out."
        )


def train(trainer: PretrainTrainer, datasets: list[str]) -> None:
    """Trains and saves the encoder with its feature extractor and tokenizer, and pushes it to the Hub if requested."""
    args = trainer.args
    if args.resume_from_checkpoint is not None:
        trainer.accelerator.print(f"Continuing from {args.resume_from_checkpoint}")
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    if trainer.is_world_process_zero():
        if trainer.text_tokenizer is not None:
            remove_loading_notes(trainer.text_tokenizer)
            trainer.text_tokenizer.save_pretrained(args.output_dir)
        if trainer.plots is not None:
            trainer.plots.draw(trainer.accelerator.unwrap_model(trainer.model), Path(args.output_dir))
    trainer.create_model_card()
    trainer.accelerator.print(f"Saved to {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub(dataset=datasets)
    end_processes(trainer)


if __name__ == "__main__":
    main()
