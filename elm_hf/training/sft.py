"""
Fine-tunes an ELM with TRL's `SFTTrainer`. `elm-hf train` is the same program on one process.

    accelerate launch -m elm_hf.training.sft --config quickstart

Alignment, which trains only the projector:

    accelerate launch -m elm_hf.training.sft --model_name_or_path my-elm --dataset my-dataset --output_dir aligned \
        --trainable projector

LoRA in the LLM together with the projector, on two processes:

    accelerate launch --num_processes 2 -m elm_hf.training.sft --model_name_or_path aligned --dataset my-dataset \
        --output_dir adapter --trainable projector llm --use_peft
"""

from collections.abc import Callable, Sequence

from datasets import Dataset
from transformers import AutoConfig, AutoProcessor, ProcessorMixin, set_seed
from transformers.utils import logging
from trl import ModelConfig, TrlParser

from elm_hf.checkpoints.hub_encoder import allow_encoder_code
from elm_hf.checkpoints.llm import set_generation
from elm_hf.data.loading import languages_of
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.augmentation import EcgAugmentation, EcgImageAugmentation
from elm_hf.training.batches import check_lengths_are_known, set_batch_size
from elm_hf.training.checks import (
    check_arguments,
    check_chat_template,
    check_model,
    check_output,
    check_parts,
    set_max_length,
    set_thinking,
)
from elm_hf.training.compilation import compilation_of
from elm_hf.training.conditions import with_condition
from elm_hf.training.costs import RunCosts
from elm_hf.training.determinism import make_deterministic
from elm_hf.training.parallelism import end_processes
from elm_hf.training.parts import load_model
from elm_hf.training.resume import check_same_patients, checkpoint_to_continue, run_settings
from elm_hf.training.rows import load_sources, load_training_data, prepare_rows
from elm_hf.training.sample_answers import check_trackers
from elm_hf.training.sft_config import ElmSFTConfig
from elm_hf.training.stages import stages_with_this_one
from elm_hf.training.trainer import ElmTrainer, ElmTraining
from elm_hf.training.trl_options import chat_template_of
from elm_hf.training.validation import (
    EXACT_MATCH,
    ValidationQuestions,
    check_asking,
    check_evaluation,
    evaluates,
    evaluation_callbacks,
    num_sampled,
)
from elm_hf.utils.encoder_origin import known_sources, known_sources_message
from elm_hf.utils.errors import errors_in_one_line
from elm_hf.utils.recipes import with_recipe
from elm_hf.utils.registration import register_modeling_classes


logger = logging.get_logger(__name__)

ARGUMENTS = (ElmScriptArguments, ElmSFTConfig, ModelConfig, EcgAugmentation, EcgImageAugmentation)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program ([`run_program`])."""
    run_program("elm-hf train", ARGUMENTS, build_trainer, arguments)


def run_program(
    program: str,
    argument_classes: Sequence[type],
    build: Callable[..., ElmTraining],
    arguments: Sequence[str] | None = None,
) -> None:
    """
    Trains and saves a model, and pushes it to the Hub if requested.

    Args:
        program: name of the program in errors.
        argument_classes: dataclasses of its arguments.
        build: function from instances of these to the trainer, ready to start.
        arguments: command-line arguments. Defaults to those of this process.
    """
    with errors_in_one_line(program):
        trainer = build(*parse(arguments, argument_classes))
    train(trainer)


def parse(arguments: Sequence[str] | None = None, argument_classes: Sequence[type] = ARGUMENTS) -> tuple:
    """Parses arguments into instances of dataclasses; `--config` takes a YAML file or the name of a recipe."""
    return TrlParser(argument_classes).parse_args_and_config(with_recipe(arguments))


def build_trainer(
    script_args: ElmScriptArguments,
    training_args: ElmSFTConfig,
    model_args: ModelConfig,
    augmentation: EcgAugmentation,
    image_augmentation: EcgImageAugmentation,
) -> ElmTrainer:
    """Builds the trainer of a run, ready to start or to resume from its last checkpoint."""
    check_arguments(script_args, training_args, model_args, augmentation, image_augmentation)
    metrics = ["loss"] if script_args.eval_exact_match is None else ["loss", EXACT_MATCH]
    check_evaluation(training_args, script_args.early_stopping_patience, metrics)
    check_trackers(training_args)
    check_asking(script_args.eval_exact_match, script_args.eval_samples, training_args)
    set_batch_size(script_args, training_args)
    run = run_settings(training_args, script_args, model_args, augmentation, image_augmentation)
    run["system_prompt"] = script_args.system_prompt  # the text, since the file may change
    run["chat_template"] = chat_template_of(training_args)
    training_args.resume_from_checkpoint = checkpoint_to_continue(
        training_args.resume_from_checkpoint, training_args.output_dir, run
    )
    check_model(model_args)
    check_output(training_args, model_args)
    name, revision = model_args.model_name_or_path, model_args.model_revision
    allow_encoder_code(name, revision, training_args.trust_remote_code)
    is_alignment = script_args.descriptions is not None or "llm" not in script_args.trainable
    kind = "alignment" if is_alignment else "fine-tuning"
    stages = stages_with_this_one(kind, script_args, model_args, script_args.rag_index)
    check_same_patients(training_args.resume_from_checkpoint, stages)
    set_seed(training_args.seed)  # new adapters are initialized before the trainer sets the seed
    if script_args.deterministic:
        make_deterministic(training_args)

    processor = _load_processor(script_args, training_args, model_args, run["chat_template"])
    # The data are checked before weights are loaded.
    conversations, validation = _load_conversations(script_args, training_args, model_args, processor)

    packing = "padding_free" if training_args.padding_free else "prefix" if script_args.pack_by_ecg > 1 else None
    model, learning, peft_config = load_model(script_args.trainable, training_args, model_args, packing)
    if run["chat_template"] is not None:
        set_generation(model, processor)  # its end of a turn
    if known := known_sources(model.config.encoder_config, load_sources(script_args.dataset)):
        logger.warning(f"{model_args.model_name_or_path}: {known_sources_message(known)}")
    compilation = compilation_of(script_args, training_args, model_args, model)
    rows, collator, validation_rows, validation_collator = prepare_rows(
        conversations,
        script_args,
        training_args,
        model,
        processor,
        augmentation,
        image_augmentation,
        validation,
        few_lengths=compilation is not None,
    )
    questions = _questions_while_training(validation, script_args, training_args)

    _set_options_of_trainer(training_args)
    trainer = ElmTrainer(
        model=model,
        args=training_args,
        train_dataset=rows,
        eval_dataset=validation_rows,
        data_collator=collator,
        processing_class=processor,
        peft_config=peft_config,
        callbacks=[RunCosts(len(conversations)), *evaluation_callbacks(script_args.early_stopping_patience)],
        script_args=script_args,
        base_model=model_args.model_name_or_path,
        learning=[part for part, number in learning.items() if number],
        run=run,
        stages=stages,
        languages=languages_of(conversations),
        validation_collator=validation_collator,
        questions=questions,
        compiled=compilation is not None,
    )
    if compilation is not None:
        compilation.compile_layers(model)
    trainer.accelerator.print(
        f"Trainable parameters: {trainer.trained_in_words()}, {rows_in_words(rows, script_args)}"
    )
    return trainer


def _load_processor(
    script_args: ElmScriptArguments, training_args: ElmSFTConfig, model_args: ModelConfig, chat_template: str | None
) -> ProcessorMixin:
    """The processor, with the system prompt and the chat template of this run."""
    register_modeling_classes()
    processor = AutoProcessor.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    if script_args.system_prompt is not None:
        processor.system_prompt = script_args.system_prompt or None
    if chat_template is not None:
        processor.chat_template = chat_template
        training_args.chat_template_path = None
    check_chat_template(processor, script_args)
    return processor


def _load_conversations(
    script_args: ElmScriptArguments, training_args: ElmSFTConfig, model_args: ModelConfig, processor: ProcessorMixin
) -> tuple[Dataset, Dataset | None]:
    """The conversations to train on, and those of the validation split if there is an evaluation, both checked."""
    conversations = load_training_data(script_args, training_args, processor)
    conversations = with_condition(conversations, script_args, training_args.seed)
    set_thinking(processor, conversations)
    elm_config = AutoConfig.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    check_lengths_are_known(script_args, elm_config.representation)
    check_parts(script_args, elm_config)
    set_max_length(training_args, conversations, processor, elm_config)
    validation = None
    if evaluates(training_args):
        validation = load_training_data(script_args, training_args, processor, split="validation")
        validation = with_condition(validation, script_args, training_args.seed)
    return conversations, validation


def _questions_while_training(
    validation: Dataset | None, script_args: ElmScriptArguments, training_args: ElmSFTConfig
) -> ValidationQuestions | None:
    """The validation questions that are asked and shown during training; None if there are none."""
    is_alignment = script_args.descriptions is not None
    num_samples = 0 if is_alignment else num_sampled(script_args.eval_samples, training_args)
    if script_args.eval_exact_match is None and not num_samples:
        return None
    return ValidationQuestions(
        validation, script_args.eval_exact_match, num_samples, training_args.per_device_eval_batch_size
    )


def _set_options_of_trainer(training_args: ElmSFTConfig) -> None:
    """Options that TRL's trainer gets in any case."""
    training_args.dataset_kwargs = {"skip_prepare_dataset": True}  # the collator prepares text and ECGs
    training_args.padding_free = False  # the collator removes the padding
    training_args.remove_unused_columns = False
    training_args.include_num_input_tokens_seen = "non_padding"  # for costs.json
    training_args.router_aux_loss_coef = 0.0  # ELMs return no loss of a router
    training_args.train_sampling_strategy = "group_by_length"


def rows_in_words(rows: Dataset, script_args: ElmScriptArguments) -> str:
    """The number of training rows, or of batches that fill a number of positions."""
    if script_args.tokens_per_batch is None:
        return f"{len(rows)} rows"
    return f"{len(rows)} batches of up to {script_args.tokens_per_batch} positions"


def train(trainer: ElmTraining) -> None:
    """Trains and saves the model with its card, and pushes it to the Hub if requested."""
    args = trainer.args
    if args.resume_from_checkpoint is not None:
        trainer.accelerator.print(f"Continuing from {args.resume_from_checkpoint}")
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    trainer.create_model_card()
    trainer.accelerator.print(f"Saved to {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub()
    end_processes(trainer)


if __name__ == "__main__":
    main()
