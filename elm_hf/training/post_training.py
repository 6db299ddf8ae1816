"""What training on preferences and on rewards have in common: checks, the processor, and the arguments of the trainer."""

from dataclasses import dataclass, field

from datasets import Dataset
from transformers import AutoProcessor, ProcessorMixin, TrainingArguments, set_seed
from trl import ModelConfig

from elm_hf.checkpoints.hub_encoder import allow_encoder_code
from elm_hf.data.loading import languages_of, load_elm_dataset
from elm_hf.data.seen_patients import Stage
from elm_hf.training.arguments import DataArguments
from elm_hf.training.checks import (
    check_chat_template,
    check_ecgs,
    check_hardware,
    check_length,
    check_model,
    check_output,
)
from elm_hf.training.costs import RunCosts
from elm_hf.training.determinism import make_deterministic
from elm_hf.training.pushing import check_push
from elm_hf.training.resume import check_same_patients, checkpoint_to_continue, run_settings
from elm_hf.training.sample_answers import check_trackers
from elm_hf.training.stages import stages_with_this_one
from elm_hf.training.trl_options import check_trl_options
from elm_hf.training.validation import (
    EXACT_MATCH,
    ValidationQuestions,
    check_asking,
    check_evaluation,
    evaluation_callbacks,
    num_sampled,
)
from elm_hf.utils.registration import register_modeling_classes


@dataclass
class PostTraining:
    """
    A run that continues a fine-tuned model.

    Args:
        kind: kind of this stage of training (see [`Stage`]).
        script_args, training_args, model_args: arguments of the run.
        refused: options of TRL that this way of training ignores, and why.
        metrics: names that `--metric_for_best_model` may have besides `loss` and `exact_match`.

    Attributes:
        processor: the ELM's processor.
        run: settings of the run, saved with its checkpoints.
        stages: stages of training including this one.
        languages: languages of the training conversations, once these are loaded.

    Raises:
        ValueError: options exclude each other or have no effect, or the checkpoint was trained on held-out patients.
    """

    kind: str
    script_args: DataArguments
    training_args: TrainingArguments
    model_args: ModelConfig
    refused: dict[str, str]
    metrics: tuple[str, ...] = ()

    processor: ProcessorMixin = field(init=False)
    run: dict = field(init=False)
    stages: list[Stage] = field(init=False)
    languages: list[str] = field(init=False, default_factory=list)

    def __post_init__(self):
        script_args, training_args, model_args = self.script_args, self.training_args, self.model_args
        check_trl_options(training_args, model_args, self.refused)
        check_hardware(training_args, model_args)
        check_length(training_args)
        check_push(training_args, model_args)
        exact_match = () if script_args.eval_exact_match is None else (EXACT_MATCH,)
        check_evaluation(training_args, script_args.early_stopping_patience, ("loss", *exact_match, *self.metrics))
        check_trackers(training_args)
        check_asking(script_args.eval_exact_match, script_args.eval_samples, training_args)
        self.run = run_settings(training_args, script_args, model_args)
        training_args.resume_from_checkpoint = checkpoint_to_continue(
            training_args.resume_from_checkpoint, training_args.output_dir, self.run
        )
        check_model(model_args)
        check_output(training_args, model_args)
        name, revision = model_args.model_name_or_path, model_args.model_revision
        allow_encoder_code(name, revision, training_args.trust_remote_code)
        self.stages = stages_with_this_one(self.kind, script_args, model_args)
        check_same_patients(training_args.resume_from_checkpoint, self.stages)
        set_seed(training_args.seed)  # new adapters are initialized before the trainer sets the seed
        if script_args.deterministic:
            make_deterministic(training_args)
        register_modeling_classes()
        self.processor = AutoProcessor.from_pretrained(
            model_args.model_name_or_path, revision=model_args.model_revision
        )
        check_chat_template(self.processor, script_args)
        training_args.remove_unused_columns = False

    def load_conversations(self, split: str) -> Dataset:
        """The conversations of a split, whose ECGs the model can read."""
        args = self.script_args
        rows = load_elm_dataset(args.dataset, fold=args.fold, split=split, question_types=args.question_types)
        check_ecgs(rows, self.processor)
        if split == "train":
            self.languages = languages_of(rows)
        return rows

    def trainer_arguments(self, learning: dict[str, int], num_samples: int) -> dict:
        """
        Arguments of [`ElmTraining`].

        Args:
            learning: number of trainable parameters of each part.
            num_samples: number of rows of the training data.
        """
        script_args = self.script_args
        questions = None
        num_shown = num_sampled(script_args.eval_samples, self.training_args)
        if script_args.eval_exact_match is not None or num_shown:
            batch_size = self.training_args.per_device_eval_batch_size
            rows = self.load_conversations("validation")
            questions = ValidationQuestions(rows, script_args.eval_exact_match, num_shown, batch_size)
        return {
            "script_args": script_args,
            "base_model": self.model_args.model_name_or_path,
            "learning": [part for part, number in learning.items() if number],
            "run": self.run,
            "stages": self.stages,
            "languages": self.languages,
            "questions": questions,
            "callbacks": [RunCosts(num_samples), *evaluation_callbacks(script_args.early_stopping_patience)],
        }
