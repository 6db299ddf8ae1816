"""
Fine-tunes an ELM with TRL's `SFTTrainer`.

Everything:

    accelerate launch train_sft.py --config recipes/quickstart.yaml

Alignment, the projector alone:

    accelerate launch train_sft.py --model_name_or_path my-elm --dataset my-dataset --output_dir aligned --trainable projector

LoRA in the LLM, projector whole, two processes:

    accelerate launch --num_processes 2 train_sft.py --model_name_or_path aligned --dataset my-dataset \
        --output_dir adapter --trainable projector llm --use_peft
"""

from transformers import AutoProcessor, set_seed
from trl import ModelConfig, SFTConfig, TrlParser

from elm_hf.data.loading import load_elm_dataset
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.retrieval.prompts import Retrieval, add_neighbours
from elm_hf.training.alignment import AlignmentCollator, alignment_conversations
from elm_hf.training.arguments import (
    ElmScriptArguments,
    add_lengths,
    check_arguments,
    check_ecgs,
    check_model,
    make_deterministic,
)
from elm_hf.training.augmentation import EcgAugmentation, EcgImageAugmentation
from elm_hf.training.collator import AugmentationEpoch, ElmDataCollator, tokenize_conversations
from elm_hf.training.costs import RunCosts
from elm_hf.training.encoder_cache import cache_encoders_of
from elm_hf.training.packing import check_packing, pack_by_ecg
from elm_hf.training.parallelism import runs_before_sharding, shards_weights, tensor_parallelism
from elm_hf.training.parts import lora_config, quantization_config, set_trainable
from elm_hf.training.resume import checkpoint_to_continue, run_settings
from elm_hf.training.trainer import ElmTrainer
from elm_hf.utils.errors import errors_in_one_line


ARGUMENTS = (ElmScriptArguments, SFTConfig, ModelConfig, EcgAugmentation, EcgImageAugmentation)


def build_trainer(
    script_args: ElmScriptArguments,
    training_args: SFTConfig,
    model_args: ModelConfig,
    augmentation: EcgAugmentation,
    image_augmentation: EcgImageAugmentation,
) -> ElmTrainer:
    check_arguments(script_args, training_args, model_args, augmentation, image_augmentation)
    run = run_settings(training_args, script_args, model_args, augmentation, image_augmentation)
    run["system_prompt"] = script_args.system_prompt  # the file's words, which may change
    training_args.resume_from_checkpoint = checkpoint_to_continue(
        training_args.resume_from_checkpoint, training_args.output_dir, run
    )
    check_model(model_args)
    set_seed(training_args.seed)  # new adapters are drawn before the trainer sets it
    if script_args.deterministic:
        make_deterministic(training_args)

    # Processor and data, which are checked before weights are read
    processor = AutoProcessor.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    if script_args.system_prompt is not None:
        processor.system_prompt = script_args.system_prompt or None
    dataset = load_elm_dataset(
        script_args.dataset,
        fold=script_args.fold,
        split="train",
        probabilities=script_args.dataset_probabilities,
        merge_questions=script_args.merge_questions,
        seed=training_args.seed,
        question_types=script_args.question_types,
    )
    check_ecgs(dataset, processor)
    if script_args.descriptions is not None:
        dataset = alignment_conversations(
            dataset, script_args.descriptions, script_args.feature_sentences, script_args.data_expansion
        )
    num_conversations = len(dataset)
    if script_args.retrieval is not None:
        with training_args.main_process_first(desc="finding similar ECGs"):
            found = Retrieval(script_args.retrieval, script_args.dataset, script_args.fold, dataset["ecg_index"])
            dataset = add_neighbours(dataset, found, processor.system_prompt, training_args.dataset_num_proc)

    # Model
    quantization = quantization_config(model_args)
    model = ElmForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=quantization,
        distributed_config=tensor_parallelism(model_args, training_args),
    )
    learning = set_trainable(model, script_args.trainable)
    peft_config = lora_config(model, model_args, script_args.trainable)
    is_packed = script_args.pack_by_ecg > 1 or training_args.padding_free
    if is_packed:
        if quantization is None and not shards_weights():  # quantized ones are where they run
            model.to(training_args.device)
        if runs_before_sharding(model):
            check_packing(model, behind_prefix=script_args.pack_by_ecg > 1)

    # Data as the model reads them
    encoder_features = None
    if script_args.cache_encoder:
        for part in (model.model.encoder, model.model.projector):  # the LLM may be too large for one GPU
            if part is not None and quantization is None:
                part.to(training_args.device)
        with training_args.main_process_first(desc="running the encoder"):
            encoder_features = cache_encoders_of(script_args.dataset, model, processor, not training_args.disable_tqdm)
    collator_class = ElmDataCollator if script_args.descriptions is None else AlignmentCollator
    collator = collator_class(
        processor,
        training_args.max_length,
        augmentation if augmentation != EcgAugmentation() else None,
        image_augmentation if image_augmentation != EcgImageAugmentation() else None,
        training_args.seed,
        training_args.padding_free,
        encoder_features,
        ecg_in_every_batch=model.config.representation != "symbol",
    )
    if model.config.representation == "symbol" or script_args.descriptions is not None:  # text depends on the ECG
        dataset = add_lengths(dataset, processor.num_ecg_tokens)
    else:
        with training_args.main_process_first(desc="tokenizing"):
            dataset = tokenize_conversations(dataset, collator, training_args.dataset_num_proc)
    if script_args.pack_by_ecg > 1:
        dataset = pack_by_ecg(dataset, script_args.pack_by_ecg, training_args.seed)

    # Trainer
    training_args.dataset_kwargs = {"skip_prepare_dataset": True}  # the collator does it, ECGs and all
    training_args.padding_free = False  # so does it this
    training_args.remove_unused_columns = False
    training_args.include_num_input_tokens_seen = "non_padding"  # for the costs
    training_args.train_sampling_strategy = "group_by_length"
    trainer = ElmTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset,
        data_collator=collator,
        processing_class=processor,
        peft_config=peft_config,
        callbacks=[AugmentationEpoch(collator), RunCosts(num_conversations)],
        script_args=script_args,
        base_model=model_args.model_name_or_path,
        learning=[part for part, number in learning.items() if number],
        run=run,
    )
    trainer.accelerator.print(f"Learning parameters: {learning}, {len(dataset)} rows")
    return trainer


def main(*arguments):
    train(build_trainer(*arguments))


def train(trainer: ElmTrainer):
    args = trainer.args
    if args.resume_from_checkpoint is not None:
        trainer.accelerator.print(f"Continuing from {args.resume_from_checkpoint}")
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    # Save and push
    trainer.save_model(args.output_dir)
    trainer.create_model_card()
    trainer.accelerator.print(f"Saved to {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.end()


if __name__ == "__main__":
    with errors_in_one_line("train_sft.py"):
        ready = build_trainer(*TrlParser(ARGUMENTS).parse_args_and_config())
    train(ready)
