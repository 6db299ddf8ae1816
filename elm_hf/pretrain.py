"""
Pre-trains an ECG encoder on the records of elm-hf datasets: masked autoencoding, contrast with reports, or classes.

    accelerate launch -m elm_hf.pretrain --config recipes/pretrain_st_mem.yaml
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)
from trl import TrlParser

from elm_hf.augment import EcgAugmentation
from elm_hf.collator import AugmentationEpoch
from elm_hf.convert import st_mem_feature_extractor
from elm_hf.convert_merl import merl_feature_extractor
from elm_hf.costs import RunCosts
from elm_hf.modeling.configuration_elm import ECG_ENCODER_TYPES
from elm_hf.modeling.feature_extraction_elm import EcgFeatureExtractor
from elm_hf.modeling.modeling_elm import ECG_ENCODERS  # noqa: F401 (registers the encoders)
from elm_hf.modeling.modeling_merl import MerlForPreTraining
from elm_hf.pretraining_data import EcgPretrainingCollator, load_pretraining_records
from elm_hf.reconstruction import ReconstructionPlots
from elm_hf.training import errors_in_one_line


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


def main(script_args: PretrainArguments, training_args: TrainingArguments, augmentation: EcgAugmentation):
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

    # Train
    training_args.remove_unused_columns = False
    training_args.label_names = ["labels"] if needed == "class" else []
    is_autoencoder = model_type not in ("merl", "ecg_resnet")
    plots = ReconstructionPlots(feature_extractor, records.held_out or records.train, script_args.num_plots)
    collator = EcgPretrainingCollator(
        feature_extractor, tokenizer, augmentation if augmentation != EcgAugmentation() else None, training_args.seed
    )
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=records.train,
        eval_dataset=records.held_out,
        data_collator=collator,
        processing_class=feature_extractor,
        callbacks=[AugmentationEpoch(collator), RunCosts(len(records.train)), *([plots] if is_autoencoder else [])],
    )
    trainer.accelerator.print(
        f"{model_type}: {model.num_parameters():,} parameters, {len(records.train):,} records, {records.num_left_out:,} "
        f"left out, {len(records.held_out or []):,} of the fold's test patients"
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)

    # Save and push
    trainer.save_model(training_args.output_dir)
    if tokenizer is not None and trainer.is_world_process_zero():
        tokenizer.save_pretrained(training_args.output_dir)
    if is_autoencoder and trainer.is_world_process_zero():
        plots.draw(model, Path(training_args.output_dir))
    trainer.accelerator.print(f"Saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset=script_args.dataset)


def new_encoder(
    model_type: str, config_file: str | None, text_model: str, classes: list[str] | None
) -> PreTrainedModel:
    """
    An encoder with random weights and the head that it is pre-trained with.

    Args:
        model_type: which encoder.
        config_file: JSON file with fields of its configuration.
        text_model: text tower of `"merl"`.
        classes: names of the classes of `"ecg_resnet"`.
    """
    fields = {} if config_file is None else json.loads(Path(config_file).read_text(encoding="utf-8"))
    if model_type == "merl":
        return MerlForPreTraining.from_text_pretrained(text_model, **fields)
    if model_type == "ecg_resnet":
        fields |= {"id2label": dict(enumerate(classes)), "label2id": {name: n for n, name in enumerate(classes)}}
        return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **fields))
    return AutoModelForPreTraining.from_config(AutoConfig.for_model(model_type, **fields))


def new_feature_extractor(model: PreTrainedModel, sampling_rate: int, num_samples: int) -> EcgFeatureExtractor:
    """
    The signal conventions of the encoder's paper; `ecg_resnet` reads records as they are, in millivolt.

    Args:
        model: the encoder.
        sampling_rate, num_samples: of the records.
    """
    if model.config.model_type == "merl":
        return merl_feature_extractor(model.config)
    if model.config.model_type == "ecg_resnet":
        return EcgFeatureExtractor(sampling_rate, num_samples, normalization="none")
    return st_mem_feature_extractor(model.config)


def _model_type(encoder: str) -> str:
    model_type = encoder if encoder in ECG_ENCODER_TYPES else AutoConfig.from_pretrained(encoder).model_type
    if model_type not in ECG_ENCODER_TYPES:
        raise ValueError(f'{encoder}: a "{model_type}" is no ECG encoder; there are {", ".join(ECG_ENCODER_TYPES)}.')
    return model_type


if __name__ == "__main__":
    with errors_in_one_line("elm_hf.pretrain"):
        arguments = TrlParser((PretrainArguments, TrainingArguments, EcgAugmentation)).parse_args_and_config()
    main(*arguments)
