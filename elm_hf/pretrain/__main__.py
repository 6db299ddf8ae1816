"""
Pre-trains an ECG encoder on the records of elm-hf datasets: masked autoencoding, contrast with reports, or classes.

    accelerate launch -m elm_hf.pretrain --config recipes/pretrain_st_mem.yaml
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import (
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainingArguments,
    set_seed,
)
from trl import TrlParser

from elm_hf.modeling.configuration_elm import ECG_ENCODER_TYPES
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_elm_encoder import ECG_ENCODERS  # noqa: F401 (registers the encoders)
from elm_hf.pretrain.data import EcgPretrainingCollator, load_pretraining_records
from elm_hf.pretrain.encoder import _model_type, new_encoder, new_feature_extractor
from elm_hf.pretrain.reconstruction import ReconstructionPlots
from elm_hf.pretrain.trainer import PretrainTrainer
from elm_hf.training.augmentation import EcgAugmentation
from elm_hf.training.collator import AugmentationEpoch
from elm_hf.training.costs import RunCosts
from elm_hf.training.resume import checkpoint_to_continue, run_settings
from elm_hf.utils.errors import errors_in_one_line


@dataclass
class PretrainArguments:
    """
    Arguments beside those of transformers' `TrainingArguments`.

    Args:
        dataset: Folders or Hub names of elm-hf datasets; the records of all of them are learnt from.
        encoder: ecg_resnet, merl, mlae, mtae or st_mem for new weights, or a checkpoint of one to go on from.
        encoder_config: JSON file with fields of a new encoder's configuration, where they are not the defaults.
        text_model: Text tower of a new merl (which is not trained).
        fold: Leave out the patients that this fold tests on, and evaluate on them if asked to; all records by default.
            Needed for classes, which are the strata of the fold's conversations.
        held_out_dataset: Leave out the patients that this fold of another dataset, about the same ECGs, tests on, too.
        num_plots: Reconstructions to draw beside each checkpoint, of masked autoencoders.
    """

    dataset: list[str] = field(metadata={"help": "Folders or Hub names of elm-hf datasets."})
    encoder: str = field(metadata={"help": f"{', '.join(ECG_ENCODER_TYPES)}, or a checkpoint of one."})
    encoder_config: str | None = field(
        default=None, metadata={"help": "JSON file with fields of a new encoder's configuration."}
    )
    text_model: str = field(
        default="ncbi/MedCPT-Query-Encoder", metadata={"help": "Text tower of a new merl, frozen."}
    )
    fold: str | None = field(default=None, metadata={"help": "Leave out the patients that this fold tests on."})
    held_out_dataset: str | None = field(
        default=None, metadata={"help": "Leave out the patients that the fold of this dataset tests on, too."}
    )
    num_plots: int = field(default=4, metadata={"help": "Reconstructions to draw beside each checkpoint."})


def build_trainer(
    script_args: PretrainArguments, training_args: TrainingArguments, augmentation: EcgAugmentation
) -> PretrainTrainer:
    run = run_settings(training_args, script_args, augmentation)
    training_args.resume_from_checkpoint = checkpoint_to_continue(
        training_args.resume_from_checkpoint, training_args.output_dir, run
    )
    set_seed(training_args.seed)

    # Records
    model_type = _model_type(script_args.encoder)
    needed = {"merl": "report", "ecg_resnet": "class"}.get(model_type)
    records = load_pretraining_records(script_args.dataset, script_args.fold, needed, script_args.held_out_dataset)
    first = records.train[0]

    # Encoder
    if script_args.encoder == model_type:
        model = new_encoder(model_type, script_args.encoder_config, script_args.text_model, records.classes)
        feature_extractor = new_feature_extractor(model, first["sampling_rate"], first["ecg"].shape[1])
        tokenizer = AutoTokenizer.from_pretrained(script_args.text_model) if model_type == "merl" else None
    else:
        auto_class = AutoModelForSequenceClassification if model_type == "ecg_resnet" else AutoModelForPreTraining
        model = auto_class.from_pretrained(script_args.encoder)
        feature_extractor = EcgFeatureExtractor.from_pretrained(script_args.encoder)
        tokenizer = AutoTokenizer.from_pretrained(script_args.encoder) if model_type == "merl" else None
    # all records have one length and rate: what is too short is refused before training
    feature_extractor(first["ecg"], sampling_rate=first["sampling_rate"], lead_names=list(LEADS))

    # Trainer
    training_args.remove_unused_columns = False
    training_args.label_names = ["labels"] if needed == "class" else []
    plots = None
    if model_type not in ("merl", "ecg_resnet"):
        plots = ReconstructionPlots(feature_extractor, records.held_out or records.train, script_args.num_plots)
    collator = EcgPretrainingCollator(
        feature_extractor, tokenizer, augmentation if augmentation != EcgAugmentation() else None, training_args.seed
    )
    trainer = PretrainTrainer(
        model=model,
        args=training_args,
        train_dataset=records.train,
        eval_dataset=records.held_out,
        data_collator=collator,
        processing_class=feature_extractor,
        callbacks=[AugmentationEpoch(collator), RunCosts(len(records.train))],
        run=run,
        text_tokenizer=tokenizer,
        plots=plots,
    )
    trainer.accelerator.print(
        f"{model_type}: {model.num_parameters():,} parameters, {len(records.train):,} records, {records.num_left_out:,} "
        f"left out, {len(records.held_out or []):,} of the fold's test patients"
    )
    return trainer


def main(*arguments):
    train(build_trainer(*arguments), arguments[0].dataset)


def train(trainer: PretrainTrainer, datasets: list[str]):
    args = trainer.args
    if args.resume_from_checkpoint is not None:
        trainer.accelerator.print(f"Continuing from {args.resume_from_checkpoint}")
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    # Save and push
    trainer.save_model(args.output_dir)
    if trainer.is_world_process_zero():
        if trainer.text_tokenizer is not None:
            trainer.text_tokenizer.save_pretrained(args.output_dir)
        if trainer.plots is not None:
            trainer.plots.draw(trainer.accelerator.unwrap_model(trainer.model), Path(args.output_dir))
    trainer.accelerator.print(f"Saved to {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub(dataset=datasets)


if __name__ == "__main__":
    with errors_in_one_line("elm_hf.pretrain.__main__"):
        arguments = TrlParser((PretrainArguments, TrainingArguments, EcgAugmentation)).parse_args_and_config()
        ready = build_trainer(*arguments)
    train(ready, arguments[0].dataset)
