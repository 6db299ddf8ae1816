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

from transformers import AutoProcessor
from trl import ModelConfig, SFTConfig, TrlParser, get_quantization_config

from elm_hf.augment import EcgAugmentation, EcgImageAugmentation
from elm_hf.collator import AugmentationEpoch, ElmDataCollator
from elm_hf.data import load_elm_dataset
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.trainer import ElmTrainer
from elm_hf.training import ElmScriptArguments, add_lengths, lora_config, set_trainable


ARGUMENTS = (ElmScriptArguments, SFTConfig, ModelConfig, EcgAugmentation, EcgImageAugmentation)


def main(
    script_args: ElmScriptArguments,
    training_args: SFTConfig,
    model_args: ModelConfig,
    augmentation: EcgAugmentation,
    image_augmentation: EcgImageAugmentation,
):
    # Model and processor
    model = ElmForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
    )
    processor = AutoProcessor.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    learning = set_trainable(model, script_args.trainable)
    peft_config = lora_config(model, model_args, script_args.trainable)

    # Data
    dataset = load_elm_dataset(
        script_args.dataset,
        fold=script_args.fold,
        split="train",
        probabilities=script_args.dataset_probabilities,
        merge_questions=script_args.merge_questions,
        seed=training_args.seed,
    )
    dataset = add_lengths(dataset, processor.num_ecg_tokens)
    collator = ElmDataCollator(
        processor,
        training_args.max_length,
        script_args.system_prompt,
        augmentation if augmentation != EcgAugmentation() else None,
        image_augmentation if image_augmentation != EcgImageAugmentation() else None,
        training_args.seed,
    )

    # Train
    training_args.dataset_kwargs = {"skip_prepare_dataset": True}  # the collator does it, ECGs and all
    training_args.remove_unused_columns = False
    training_args.train_sampling_strategy = "group_by_length"
    trainer = ElmTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset,
        data_collator=collator,
        processing_class=processor,
        peft_config=peft_config,
        callbacks=[AugmentationEpoch(collator)],
        script_args=script_args,
        base_model=model_args.model_name_or_path,
        learning=[part for part, number in learning.items() if number],
    )
    trainer.accelerator.print(f"Learning parameters: {learning}, {len(dataset)} conversations")
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)

    # Save and push
    trainer.save_model(training_args.output_dir)
    trainer.create_model_card()
    trainer.accelerator.print(f"Saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub()
    trainer.end()


if __name__ == "__main__":
    main(*TrlParser(ARGUMENTS).parse_args_and_config())
