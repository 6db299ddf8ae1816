"""Checks before training: options that exclude each other, the name of the checkpoint, and ECGs that do not fit."""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME
from transformers import PreTrainedConfig, ProcessorMixin, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.training_args import OptimizerNames
from transformers.utils import CONFIG_NAME, find_adapter_config_file, logging
from trl import ModelConfig, SFTConfig

from elm_hf.checkpoints.chat_template import check_template
from elm_hf.checkpoints.llm import check_answers_are_learnt
from elm_hf.modeling.chat_rendering import has_reasoning
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.llm_parts import text_token_ids
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.arguments import DataArguments, ElmScriptArguments
from elm_hf.training.augmentation import EcgAugmentation, EcgImageAugmentation
from elm_hf.training.compilation import check_compilation
from elm_hf.training.packing import IGNORE_INDEX, pack_behind_prefix, pack_without_padding
from elm_hf.training.parallelism import shards_weights, tensor_parallel_size
from elm_hf.training.pushing import check_push
from elm_hf.training.trl_options import check_trl_options
from elm_hf.utils.hub import check_name
from elm_hf.utils.positions import position_limit


logger = logging.get_logger(__name__)

# Number of conversations that are searched for reasoning.
NUM_SAMPLED = 256


def check_arguments(
    script_args: ElmScriptArguments,
    training_args: SFTConfig,
    model_args: ModelConfig,
    augmentation: EcgAugmentation,
    image_augmentation: EcgImageAugmentation,
) -> None:
    """
    Checks the options before anything is loaded.

    Raises:
        ValueError: options exclude each other, or need a GPU that is not available; the message names them.
    """
    if script_args.pack_by_ecg > 1 and training_args.padding_free:
        raise ValueError(
            "--pack_by_ecg and --padding_free exclude each other; choose --pack_by_ecg for many questions about each "
            "ECG (sdpa), --padding_free for flash attention or flex_attention."
        )
    if training_args.packing:
        raise ValueError("--packing cuts conversations and their ECGs; use --padding_free or --pack_by_ecg.")
    if script_args.cache_encoder and (augmentation, image_augmentation) != (EcgAugmentation(), EcgImageAugmentation()):
        raise ValueError(
            "--cache_encoder runs the encoder once, and augmentation changes the ECGs in each epoch; leave one of "
            "them out."
        )
    if script_args.cache_encoder and script_args.data_expansion:
        raise ValueError(
            "--cache_encoder runs the encoder once, and --data_expansion drops other leads in each epoch; leave one "
            "of them out."
        )
    if script_args.cache_encoder and is_deepspeed_zero3_enabled():
        raise ValueError(
            "--cache_encoder runs the encoder before training, when ZeRO-3 has already partitioned it; use the recipe "
            "accelerate/fsdp2 or accelerate/zero2."
        )
    if script_args.encoder_learning_rate is not None and has_deepspeed_optimizer(training_args):
        raise ValueError(
            "--encoder_learning_rate needs the optimizer of transformers, and the DeepSpeed configuration names another; leave "
            "its optimizer section out."
        )
    if script_args.muon:
        check_muon(training_args)
    check_trl_options(training_args, model_args)
    check_push(training_args, model_args)
    check_compilation(training_args)
    check_hardware(training_args, model_args)
    check_length(training_args)


def check_muon(training_args: TrainingArguments) -> None:
    """
    Checks the options beside `--muon`.

    Raises:
        ValueError: another optimizer is named, or processes have parts of matrices only.
    """
    if training_args.optim != SFTConfig.optim:
        name = OptimizerNames(training_args.optim).value
        raise ValueError(f"--muon and --optim {name} name two optimizers; leave one of them out.")
    if shards_weights() or tensor_parallel_size() > 1 or training_args.deepspeed_plugin is not None:
        raise ValueError(
            "--muon needs whole matrices, and FSDP, DeepSpeed and tensor parallelism share weights or states among processes; "
            "leave it out."
        )


def has_deepspeed_optimizer(training_args: TrainingArguments) -> bool:
    """Whether DeepSpeed's configuration names an optimizer, which takes the place of that of transformers."""
    plugin = training_args.deepspeed_plugin
    return plugin is not None and "optimizer" in plugin.deepspeed_config


def check_hardware(training_args: TrainingArguments, model_args: ModelConfig) -> None:
    """
    Checks the options about precision before anything is loaded.

    Raises:
        ValueError: quantized weights are to be trained, or an option needs a GPU that is not available.
    """
    quantized = model_args.load_in_4bit or model_args.load_in_8bit
    if quantized and not model_args.use_peft:
        raise ValueError("--load_in_4bit and --load_in_8bit freeze the LLM's weights; add --use_peft to train it.")
    attention = model_args.attn_implementation or ""
    needs_gpu = {
        # On a CPU FlexAttention has no backward pass.
        f"--attn_implementation {attention}": "flash" in attention or attention == "flex_attention",
        "--fp16": training_args.fp16,
    }
    for option, chosen in needs_gpu.items():
        if chosen and not torch.cuda.is_available():
            raise ValueError(f"{option} needs a GPU, and torch finds none; leave it out.")


def check_length(training_args: TrainingArguments) -> None:
    """
    Checks that the run has steps: transformers would save the model as it was.

    Raises:
        ValueError: it has none.
    """
    if training_args.max_steps == 0:
        raise ValueError("--max_steps 0 trains nothing; give a number of steps, or leave it out to train for epochs.")
    if training_args.max_steps < 0 and training_args.num_train_epochs <= 0:
        raise ValueError(f"--num_train_epochs {training_args.num_train_epochs:g} trains nothing; give more than 0.")


def check_model(model_args: ModelConfig) -> None:
    """
    Checks before anything is loaded that the checkpoint exists and is not an adapter, of which transformers would
    train all weights and save only some.

    Raises:
        FileNotFoundError: the checkpoint is neither a folder nor a repository.
        ValueError: it is an adapter.
    """
    name = model_args.model_name_or_path
    check_name(name)
    if find_adapter_config_file(name, revision=model_args.model_revision) is not None:
        raise ValueError(
            f"--model_name_or_path {name} is an adapter; merge it into a full checkpoint (elm-hf merge {name} FOLDER) "
            "and train that."
        )


def check_not_the_start(training_args: TrainingArguments, name: str) -> None:
    """
    Checks that the output folder is not that of the checkpoint that training starts from.

    Args:
        training_args: arguments of the run.
        name: folder or repository of that checkpoint.

    Raises:
        ValueError: it is.
    """
    folder = Path(training_args.output_dir)
    if folder.resolve() == Path(name).resolve():
        raise ValueError(
            f"--output_dir {folder} is the checkpoint that training starts from, which would be overwritten; choose another folder."
        )


def check_output(training_args: TrainingArguments, model_args: ModelConfig) -> None:
    """
    Checks that the output folder holds no other model: one that would be overwritten although training starts from it, or one
    whose files would stay beside the new ones, so that a folder with an adapter would be loaded without its new weights.

    Raises:
        ValueError: the folder is that of the starting checkpoint, or has an adapter and full weights are to be saved, or the
            other way round.
    """
    check_not_the_start(training_args, model_args.model_name_or_path)
    folder = Path(training_args.output_dir)
    found, other = ("a full checkpoint", CONFIG_NAME) if model_args.use_peft else ("an adapter", ADAPTER_CONFIG_NAME)
    if (folder / other).is_file():
        raise ValueError(
            f"--output_dir {folder} holds {found} ({other}), whose files would be loaded together with those of this run; choose "
            "another folder."
        )


def check_parts(script_args: ElmScriptArguments, config: PreTrainedConfig) -> None:
    """
    Checks that the model has the parts that options are about.

    Args:
        script_args: arguments of the run.
        config: configuration of the ELM.

    Raises:
        ValueError: one of two modalities is to be dropped and the model reads one form of an ECG, or there is a learning rate
            of the encoder and no encoder.
    """
    if script_args.modality_dropout and not config.reads_both:
        raise ValueError(
            f"--modality_dropout {script_args.modality_dropout} drops the signal or the picture of an ECG, and this model "
            f'reads one representation ("{config.representation}"); leave it out, or create a model with --representation '
            "signal,image."
        )
    has_encoder = config.reads_both or config.encoder_config is not None  # that of the picture, at least
    if script_args.encoder_learning_rate is not None and not has_encoder:
        raise ValueError("--encoder_learning_rate needs a model with an encoder, and this one has none; leave it out.")


def check_chat_template(processor: ProcessorMixin, script_args: DataArguments) -> None:
    """
    Checks that the model is asked for an answer as it learns it, and that joined questions are learnt.

    Raises:
        ValueError: the chat template writes no answer as it asks for it, or of joined answers only the last.
    """
    is_sft = isinstance(script_args, ElmScriptArguments)
    if is_sft and script_args.descriptions is not None:
        return
    check_template(processor.tokenizer, "the model")
    check_answers_are_learnt(processor)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2
    _, learnt = processor.tokenize_conversation(turns, [])
    if is_sft and script_args.merge_questions > 1 and (np.diff(learnt, prepend=0) == 1).sum() < 2:
        raise ValueError(
            "--merge_questions joins answers, and the model's chat template writes an earlier answer in another way than "
            "the last one, so that only the last would be learnt; leave it out, or use --pack_by_ecg."
        )


def set_thinking(processor: ProcessorMixin, dataset: Dataset) -> None:
    """
    Makes the processor ask for reasoning if most conversations have answers with reasoning (`<think>...</think>`) that
    its chat template writes. This is saved with the model.

    Args:
        processor: the ELM's processor.
        dataset: conversations of `load_elm_dataset`, of which a sample is read.
    """
    step = max(1, len(dataset) // NUM_SAMPLED)
    sample = dataset.with_format(None).select(range(0, len(dataset), step))["messages"]
    reasoned = [processor.learns_reasoning(messages) for messages in sample]
    dropped = [
        not learnt and any(has_reasoning(message) for message in messages)
        for messages, learnt in zip(sample, reasoned)
    ]
    if any(dropped):
        logger.warning(
            f"{sum(dropped)} of {len(sample)} conversations that were looked at hold reasoning (<think>) that the chat template "
            "drops, so that only what follows it is learnt; --chat_template_path takes another template."
        )
    if 2 * sum(reasoned) > len(reasoned):
        processor.enable_thinking = True
        logger.warning(
            "The answers hold reasoning (<think>): the model will be asked with enable_thinking=True, which is saved with "
            "its processor."
        )


def set_max_length(
    training_args: TrainingArguments, dataset: Dataset, processor: ProcessorMixin, config: PreTrainedConfig
) -> None:
    """
    Sets the maximum number of tokens of a conversation to one that the model can use. TRL's default is for the text alone
    if ECGs would take more than half of it (symbol models), and is bounded by the LLM's table of positions, if it has one
    (GPT-2, OPT).

    Args:
        training_args: arguments of the run, whose `max_length` is set.
        dataset: conversations of `load_elm_dataset`.
        processor: the ELM's processor.
        config: configuration of the ELM.

    Raises:
        ValueError: `max_length` is beyond the LLM's positions, or the ECGs of a conversation leave no room for text.
    """
    limit = position_limit(config)
    most = max(
        (len(rows) for rows in dataset.with_format(None).select_columns("ecg_index")[:]["ecg_index"]), default=0
    )
    length, of_ecgs = training_args.max_length, most * processor.num_ecg_tokens
    if length == SFTConfig.max_length:
        length += of_ecgs if 2 * of_ecgs > length else 0
        length = min(length, limit or length)
    length = limit if length is None else length
    if limit is not None and length > limit:
        raise ValueError(
            f'--max_length is {length}, and the "{config.text_config.model_type}" LLM reads at most {limit} tokens.'
        )
    # An ECG of a symbol model without a largest length may be shorter than estimated.
    if length is not None and of_ecgs >= length and getattr(processor, "max_ecg_tokens", of_ecgs) is not None:
        raise ValueError(
            f"--max_length is {length}, and the ECGs of a conversation take up to {of_ecgs} tokens ({most} ECGs of "
            f"{processor.num_ecg_tokens}), which leaves no room for an answer; "
            + ("choose a larger one." if limit is None or of_ecgs < limit else "the LLM reads no more.")
        )
    training_args.max_length = length


def check_ecgs(dataset: Dataset, processor: ProcessorMixin) -> None:
    """
    Checks that the model can read the ECGs. The first one is enough, since those of a dataset have one length and
    rate.

    Raises:
        ValueError: the ECG is too short for the model or lacks leads.
    """
    first = next((row for row, ecgs in enumerate(dataset["ecg_index"]) if len(ecgs)), None)
    if first is None:
        return
    row = dataset[first]
    try:
        processor.prepare_ecgs(row["ecgs"][:1], [row["sampling_rate"]], [list(LEADS)])
    except ValueError as error:
        raise ValueError(f"--dataset does not fit the model: {row['conversation_id']}: {error}") from error


@torch.no_grad()
def check_packing(model: ElmForCausalLM, behind_prefix: bool) -> None:
    """
    Checks that the LLM keeps packed conversations apart. Recurrent LLMs, for example, do not.

    Args:
        model: the ELM to train.
        behind_prefix: whether conversations are packed by [`pack_by_ecg`] or by `padding_free`.

    Raises:
        ValueError: the logits of packed conversations differ from those of separate ones.
    """
    was_training = model.training
    model.eval()
    ids = np.array(text_token_ids(model.config, 15)[3:]) % model.config.text_config.vocab_size
    sequences = [(each, each.copy()) for each in (np.r_[ids[:4], ids[4:7]], np.r_[ids[:4], ids[7:12]])]
    for _, labels in sequences:
        labels[:5] = IGNORE_INDEX
    if behind_prefix:
        batch, _ = pack_behind_prefix([sequences], int(ids[0]), lambda ids: 0)
        last = [6, 11]
    else:
        batch, last = pack_without_padding(sequences), [6, 15]
    batch = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()
    }
    batch.pop("labels")
    packed = model(**batch, use_cache=False).logits[0, last].float()
    alone = [model(input_ids=batch["input_ids"].new_tensor(each[None])).logits[0, -1].float() for each, _ in sequences]
    model.train(was_training)
    expected = torch.stack(alone)
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.05  # half precision alone differs by a few percent
    if (packed - expected).abs().mean() > tolerance * expected.std():
        raise ValueError(
            f'The "{model.config.text_config.model_type}" LLM does not keep conversations apart that are packed into '
            f"one row ({model.config.text_config._attn_implementation} attention); "
            f"train without {'--pack_by_ecg' if behind_prefix else '--padding_free'}."
        )
