"""What `train_sft.py` needs beside TRL: its arguments, which parts learn, LoRA inside the LLM only, batches by length."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from transformers import ProcessorMixin, enable_full_determinism
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import find_adapter_config_file, logging
from trl import ModelConfig, SFTConfig

from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.retrieval.prompts import RetrievalOptions
from elm_hf.training.augmentation import EcgAugmentation, EcgImageAugmentation
from elm_hf.training.parts import PARTS
from elm_hf.utils.hub import check_name


logger = logging.get_logger(__name__)

LENGTH_STEP = 64


@dataclass
class ElmScriptArguments:
    """
    Arguments of `train_sft.py` beside those of TRL's `SFTConfig` and `ModelConfig`.

    Args:
        dataset: Folders or Hub names of datasets in the layout of elm-hf; several are mixed.
        dataset_probabilities: How often to draw from each dataset; one after the other by default.
        merge_questions: Join up to so many conversations about the same ECGs into one, turn after turn.
        pack_by_ecg: Largest number of conversations about the same ECGs that share one copy of their prefix; the
            loss is that of each alone.
        cache_encoder: Run the frozen encoder once and read its features from then on.
        fold: Fold to train on: 1 to 5, or "official".
        trainable: Parts that learn: encoder, projector, llm. With LoRA, "llm" means its adapters, and ecg_tokens, the
            embeddings of the ECG tokens of a "symbol" model, which stay as they are otherwise (Han et al. 2024).
        system_prompt_file: Text file whose content opens conversations that have no system message, in training and, as the
            processor keeps it, ever after.
        question_types: Learn from conversations of these types only; of all by default.
        descriptions: Align text and ECGs on this table of `elm-hf describe` (Yang et al. 2024, ECG-LM) instead of learning
            from the datasets' conversations; of their training ECGs.
        feature_sentences: Descriptions with the findings of each lead; without, reports alone.
        data_expansion: How many more times each described ECG comes, with other leads left out each time.
        deterministic: The same bits in every run on the same machine; slower on a GPU.
        rag_index: Folder of `elm-hf index`: what is known of similar ECGs of other training patients is put into the
            conversations.
        rag_k, rag_content, rag_location: Similar ECGs for each ECG; their report or features; behind the ECG (user) or in
            the system's words (system).
    """

    dataset: list[str] = field(metadata={"help": "Folders or Hub names of elm-hf datasets; several are mixed."})
    dataset_probabilities: list[float] | None = field(
        default=None, metadata={"help": "How often to draw from each dataset; one after the other by default."}
    )
    merge_questions: int = field(
        default=1, metadata={"help": "Join up to so many conversations about the same ECGs into one."}
    )
    pack_by_ecg: int = field(
        default=1,
        metadata={"help": "Largest number of conversations about the same ECGs that share one copy of their prefix."},
    )
    cache_encoder: bool = field(
        default=False, metadata={"help": "Run the frozen encoder once and read its features from then on."}
    )
    fold: str = field(default="1", metadata={"help": 'Fold to train on: 1 to 5, or "official".'})
    trainable: list[str] = field(
        default_factory=lambda: ["encoder", "projector", "llm"],
        metadata={
            "help": 'Parts that learn: encoder, projector, llm. With LoRA, "llm" means its adapters, and the embeddings '
            "of a symbol model's ECG tokens learn if ecg_tokens is named, too."
        },
    )
    system_prompt_file: str | None = field(
        default=None, metadata={"help": "Text file whose content opens conversations that have no system message."}
    )
    deterministic: bool = field(
        default=False, metadata={"help": "The same bits in every run on the same machine; slower on a GPU."}
    )
    rag_index: str | None = field(
        default=None,
        metadata={"help": "Folder of `elm-hf index`: put similar ECGs of other patients into the prompts."},
    )
    rag_k: int = field(default=3, metadata={"help": "Similar ECGs for each ECG."})
    rag_content: str = field(default="report", metadata={"help": "What of similar ECGs: report or features."})
    rag_location: str = field(default="user", metadata={"help": "Where: user (behind the ECG) or system."})

    question_types: list[str] | None = field(
        default=None, metadata={"help": "Learn from conversations of these types only; of all by default."}
    )
    descriptions: str | None = field(
        default=None,
        metadata={"help": "Table of elm-hf describe: align text and ECGs on it instead of on the conversations."},
    )
    feature_sentences: bool = field(
        default=True, metadata={"help": "Descriptions with the findings of each lead; without, reports alone."}
    )
    data_expansion: int = field(
        default=0, metadata={"help": "How many more times each described ECG comes, with other leads left out."}
    )

    def __post_init__(self):
        unknown = sorted(set(self.trainable) - set(PARTS))
        if unknown or not self.trainable:
            raise ValueError(f"--trainable takes some of {', '.join(PARTS)}; got {', '.join(unknown) or 'nothing'}.")
        if self.pack_by_ecg < 1:
            raise ValueError(f"--pack_by_ecg is {self.pack_by_ecg}; expected 1 (off) or more conversations.")
        if self.cache_encoder and "encoder" in self.trainable:
            raise ValueError(
                "--cache_encoder runs the encoder once, but it is among the parts that learn; leave it out of --trainable "
                "(--trainable projector llm)."
            )
        self._check_descriptions()

        _ = self.retrieval, self.system_prompt  # refuses wrong values before any work starts

    @property
    def retrieval(self) -> RetrievalOptions | None:
        """How conversations are augmented with similar ECGs."""
        if self.rag_index is None:
            return None
        return RetrievalOptions(self.rag_index, self.rag_k, self.rag_content, self.rag_location)

    def _check_descriptions(self):
        if self.data_expansion < 0 or (self.data_expansion and self.descriptions is None):
            raise ValueError(
                f"--data_expansion is {self.data_expansion}; it takes 0 or more, and goes with --descriptions."
            )
        others = {
            "--merge_questions": self.merge_questions > 1,
            "--pack_by_ecg": self.pack_by_ecg > 1,
            "--cache_encoder": self.cache_encoder,
            "--system_prompt_file": self.system_prompt_file is not None,
            "--rag_index": self.rag_index is not None,
            "--question_types": self.question_types is not None,
            "--dataset_probabilities": self.dataset_probabilities is not None,
        }
        chosen = [option for option, is_chosen in others.items() if is_chosen]
        if self.descriptions is not None and chosen:
            raise ValueError(f"--descriptions are one text for each ECG: leave {', '.join(chosen)} out.")

    @property
    def system_prompt(self) -> str | None:
        """The content of `system_prompt_file`."""
        if self.system_prompt_file is None:
            return None
        return Path(self.system_prompt_file).read_text(encoding="utf-8").strip()


def check_arguments(
    script_args: ElmScriptArguments,
    training_args: SFTConfig,
    model_args: ModelConfig,
    augmentation: EcgAugmentation,
    image_augmentation: EcgImageAugmentation,
) -> None:
    """
    Refuses options that exclude each other or need a GPU that is not there, before anything is loaded.

    Raises:
        ValueError: names the options.
    """
    if script_args.pack_by_ecg > 1 and training_args.padding_free:
        raise ValueError(
            "--pack_by_ecg and --padding_free both lay out a batch; choose --pack_by_ecg for many questions about each ECG "
            "(sdpa), --padding_free for flash attention."
        )
    if training_args.packing:
        raise ValueError("--packing cuts conversations and their ECGs; use --padding_free or --pack_by_ecg.")
    if script_args.cache_encoder and (augmentation, image_augmentation) != (EcgAugmentation(), EcgImageAugmentation()):
        raise ValueError(
            "--cache_encoder reads every ECG as it is; augmentation would change it: leave one of them out."
        )
    if script_args.cache_encoder and script_args.data_expansion:
        raise ValueError(
            "--cache_encoder reads every ECG whole, --data_expansion leaves leads out: leave one of them out."
        )
    if script_args.cache_encoder and is_deepspeed_zero3_enabled():
        raise ValueError(
            "--cache_encoder runs the encoder before training, and ZeRO-3 has taken it apart then: use "
            "recipes/accelerate/fsdp2.yaml or zero2.yaml."
        )
    quantized = model_args.load_in_4bit or model_args.load_in_8bit
    if quantized and not model_args.use_peft:
        raise ValueError("--load_in_4bit and --load_in_8bit freeze the LLM's weights; add --use_peft for it to learn.")
    needs_gpu = {
        f"--attn_implementation {model_args.attn_implementation}": "flash" in (model_args.attn_implementation or ""),
        "--fp16": training_args.fp16,
        "--use_liger_kernel": training_args.use_liger_kernel,
    }
    for option, chosen in needs_gpu.items():
        if chosen and not torch.cuda.is_available():
            raise ValueError(f"{option} needs a GPU, and torch finds none; leave it out.")


def check_model(model_args: ModelConfig) -> None:
    """
    Refuses, before anything is loaded, a mistyped name, and an adapter, of which transformers would train all and save a part.

    Raises:
        FileNotFoundError: there is no such folder, and no repository can have this name.
        ValueError: it is an adapter.
    """
    name = model_args.model_name_or_path
    check_name(name)
    if find_adapter_config_file(name, revision=model_args.model_revision) is not None:
        raise ValueError(
            f"--model_name_or_path {name} is an adapter; make a full checkpoint of it (elm-hf merge {name} FOLDER) and train that."
        )


def check_ecgs(dataset: Dataset, processor: ProcessorMixin) -> None:
    """
    Refuses ECGs that the model does not read, by the first of them: all of a dataset have one length and rate.

    Raises:
        ValueError: the ECG is shorter than the model's, or lacks its leads.
    """
    first = next((row for row, ecgs in enumerate(dataset["ecg_index"]) if len(ecgs)), None)
    if first is None:
        return
    row = dataset[first]
    try:
        processor.prepare_ecgs(row["ecgs"][:1], [row["sampling_rate"]], [list(LEADS)])
    except ValueError as error:
        raise ValueError(f"--dataset does not fit the model: {row['conversation_id']}: {error}") from error


def make_deterministic(training_args: SFTConfig) -> None:
    """
    Sets all seeds, has cuDNN and cuBLAS choose algorithms that give the same bits each time, and warns what it costs.

    Must run before anything is computed on a GPU: cuBLAS reads its setting once.
    """
    training_args.full_determinism = True
    enable_full_determinism(training_args.seed)
    logger.warning(
        "--deterministic: every GPU kernel waits for the one before, and slower ones replace those that add in any order; "
        "an operation without such a one ends training with an error that names it. Two runs are the same, bit for bit, "
        "on the same machine with the same libraries and number of processes."
    )


def add_lengths(dataset: Dataset, num_ecg_tokens: int) -> Dataset:
    """
    Adds the column `length`, by which the trainer groups its batches: four characters of text count as a token.

    Lengths are rounded up to `LENGTH_STEP` tokens. Exact ones would fill a batch with one template's questions, since
    those are equally long, and the loss would jump from batch to batch.

    Args:
        dataset: conversations as `load_elm_dataset` gives them.
        num_ecg_tokens: positions that one ECG takes.
    """

    def length(messages: list[dict]) -> int:
        items = [item for message in messages for item in message["content"]]
        tokens = sum(num_ecg_tokens if item["type"] == "ecg" else len(item["text"]) // 4 for item in items)
        return -(-tokens // LENGTH_STEP) * LENGTH_STEP

    return dataset.add_column("length", [length(messages) for messages in dataset["messages"]])
