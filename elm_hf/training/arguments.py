"""Arguments of `elm-hf train ...` in addition to those of TRL. Nothing here imports torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from pathlib import Path

from elm_hf.retrieval.options import RetrievalOptions


PARTS = ("encoder", "projector", "llm", "ecg_tokens")
# What stands in the place of the ECGs in training (`elm_hf.training.conditions`).
ECG_CONDITIONS = ("signal", "zeros", "noise", "another", "none")
# What an answer can be rewarded for (`elm_hf.training.rewards`).
REWARD_NAMES = ("exact_match", "format", "perception", "measured_claims")


def _argument(help: str, default=None):
    """A field with the help text that `elm-hf train --help` and TRL's parser show."""
    return field(default=default, metadata={"help": help})


@dataclass
class DataArguments:
    """
    Arguments that all ways of training have: data, trainable parts, and evaluation during training. The fields are
    documented by their help texts.

    Raises:
        ValueError: a part is unknown.
    """

    dataset: list[str] = field(metadata={"help": "Datasets to train on: folders or Hub names. Several are mixed."})
    fold: str = _argument('Fold to train on: 1 to 5, or "official" for the split of the dataset\'s authors.', "1")
    question_types: list[str] | None = _argument("Question types to train on. All by default.")
    trainable: list[str] = field(
        default_factory=lambda: ["encoder", "projector", "llm"],
        metadata={
            "help": "Parts to train: encoder, projector, llm. With LoRA, llm means its adapters; add ecg_tokens to "
            "train the embeddings of a symbol model's ECG tokens as well."
        },
    )
    early_stopping_patience: int | None = _argument(
        "Number of evaluations without improvement after which training ends. Needs --eval_strategy and "
        "--load_best_model_at_end."
    )
    eval_exact_match: int | None = _argument(
        "Number of validation questions to answer at each evaluation. Logged as eval_exact_match, which can be the "
        "--metric_for_best_model."
    )
    eval_samples: int | None = _argument(
        "Number of validation questions whose answers are shown at each evaluation: printed, sent to the tracker and "
        "written into the output folder. By default 5, and none with FSDP, ZeRO-3 and tensor parallelism."
    )
    allow_seen_patients: bool = _argument(
        "Train on although the starting checkpoint was trained on validation or test patients of the fold.", False
    )
    deterministic: bool = _argument(
        "Make runs on the same machine bit-identical. Training is slower, especially on a GPU.", False
    )

    def __post_init__(self):
        unknown = sorted(set(self.trainable) - set(PARTS))
        if unknown or not self.trainable:
            raise ValueError(
                f"--trainable takes one or more of {', '.join(PARTS)}; got {', '.join(unknown) or 'nothing'}."
            )


@dataclass
class PreferenceArguments(DataArguments):
    """Arguments of `elm-hf train dpo` and `elm-hf train kto` in addition to those of TRL's trainers."""

    preferences: str = field(
        kw_only=True,
        metadata={
            "help": "Pairs of answers to questions of the datasets, as elm-hf prepare preferences writes them. Pairs about "
            "training patients are trained on, those about validation patients evaluated."
        },
    )


@dataclass
class RewardArguments(DataArguments):
    """
    Arguments of `elm-hf train grpo` and `elm-hf train rloo` in addition to those of TRL's trainers.

    Raises:
        ValueError: a reward is unknown or repeated.
    """

    rewards: list[str] = field(
        default_factory=lambda: ["exact_match"],
        metadata={
            "help": f"What an answer is rewarded for: {', '.join(REWARD_NAMES)}. --reward_weights are their weights, 1 each "
            "by default."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        unknown = sorted(set(self.rewards) - set(REWARD_NAMES))
        if unknown or not self.rewards or len(set(self.rewards)) < len(self.rewards):
            raise ValueError(
                f"--rewards takes one or more of {', '.join(REWARD_NAMES)}, each once; got "
                f"{', '.join(self.rewards) or 'nothing'}."
            )


@dataclass
class ElmScriptArguments(DataArguments):
    """
    Arguments of `elm-hf train` in addition to those of TRL's `SFTConfig` and `ModelConfig`. The fields are documented
    by their help texts. `descriptions` and `data_expansion` follow ECG-LM (Yang et al. 2024), the part `ecg_tokens`
    follows ECG-Byte (Han et al. 2024).

    Raises:
        ValueError: a part is unknown, a number is out of range, or options exclude each other.
    """

    dataset_probabilities: list[float] | None = _argument(
        "Probability of drawing from each dataset. By default all rows of all datasets are used."
    )
    merge_questions: int = _argument(
        "Maximum number of conversations about the same ECGs to join into one conversation of several turns.", 1
    )
    pack_by_ecg: int = _argument(
        "Maximum number of conversations about the same ECGs to pack behind one copy of their shared prefix. The loss "
        "is that of separate conversations.",
        1,
    )
    tokens_per_batch: int | None = _argument(
        "Maximum number of positions of a batch on one device, with its padding. Batches then have as many rows as fit, "
        "instead of --per_device_train_batch_size."
    )
    max_reasoning_tokens: int | None = _argument(
        "Longest reasoning (<think>) of an answer to train on, in tokens. Conversations with a longer one are left out and "
        "counted. No limit by default."
    )
    cache_encoder: bool = _argument("Run the frozen encoder once and train on its stored features.", False)
    muon: bool = _argument("Train the matrices of hidden layers with Muon, the other weights with AdamW.", False)
    encoder_learning_rate: float | None = _argument(
        "Learning rate of the encoder, if it is not that of the other parts (--learning_rate). It follows the same schedule."
    )
    ecg_condition: str = _argument(
        "What to train on in the place of the ECGs: signal (the ECGs), zeros, noise, another (patient's ECG) or none. All "
        "but signal measure what a model can learn without reading the ECG.",
        "signal",
    )
    modality_dropout: float = _argument(
        "Probability of dropping the signal or the picture of an ECG in training, one as often as the other and never "
        "both, for models that read both.",
        0.0,
    )
    system_prompt_file: str | None = _argument(
        "Text file with a system prompt for conversations without one. It is saved with the model."
    )
    descriptions: str | None = _argument(
        "Table written by elm-hf describe. Train on its descriptions of the training ECGs instead of conversations."
    )
    feature_sentences: bool = _argument("Include the findings in the descriptions, not only the report.", True)
    data_expansion: int = _argument(
        "Number of extra copies of each described ECG. Each copy omits 4 to 6 leads, drawn in each epoch.", 0
    )
    rag_index: str | None = _argument(
        "Folder written by elm-hf index. Adds similar ECGs of other patients to the prompts."
    )
    rag_k: int = _argument("Number of similar ECGs to add for each ECG.", 3)
    rag_content: str = _argument("What to add for a similar ECG: report or features.", "report")
    rag_location: str = _argument("Where to add it: user (after the ECG) or system (in the system prompt).", "user")

    def __post_init__(self):
        super().__post_init__()
        if self.pack_by_ecg < 1:
            raise ValueError(f"--pack_by_ecg is {self.pack_by_ecg}; expected 1 (off) or more.")
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise ValueError(f"--tokens_per_batch is {self.tokens_per_batch}; expected 1 or more.")
        if not 0 <= self.modality_dropout <= 1:
            raise ValueError(f"--modality_dropout is {self.modality_dropout}; expected a probability from 0 to 1.")
        if self.max_reasoning_tokens is not None and self.max_reasoning_tokens < 1:
            raise ValueError(f"--max_reasoning_tokens is {self.max_reasoning_tokens}; expected 1 or more.")
        if self.cache_encoder and "encoder" in self.trainable:
            raise ValueError(
                "--cache_encoder needs a frozen encoder, but encoder is in --trainable; leave it out (--trainable "
                "projector llm)."
            )
        self._check_encoder_learning_rate()
        self._check_condition()
        self._check_descriptions()
        _ = self.retrieval, self.system_prompt  # wrong values raise an error before any work starts

    @property
    def retrieval(self) -> RetrievalOptions | None:
        """How similar ECGs are added to the prompts; None without `--rag_index`."""
        if self.rag_index is None:
            return None
        return RetrievalOptions(self.rag_index, self.rag_k, self.rag_content, self.rag_location)

    def _check_encoder_learning_rate(self):
        rate = self.encoder_learning_rate
        if rate is None:
            return
        if not 0 < rate < 1:
            raise ValueError(f"--encoder_learning_rate is {rate}; expected a number between 0 and 1.")
        if "encoder" not in self.trainable or len(self.trainable) == 1:
            raise ValueError(
                "--encoder_learning_rate needs the encoder and another part in --trainable; got "
                f"{' '.join(self.trainable)}."
            )

    def _check_condition(self):
        condition = self.ecg_condition
        if condition not in ECG_CONDITIONS:
            raise ValueError(f'--ecg_condition takes one of {", ".join(ECG_CONDITIONS)}; got "{condition}".')
        if condition != "signal" and self.descriptions is not None:
            raise ValueError(f"--descriptions describes the true ECGs; leave out --ecg_condition {condition}.")
        if condition in ("zeros", "noise") and self.cache_encoder:
            raise ValueError(
                f"--cache_encoder stores features of the true ECGs, and --ecg_condition {condition} replaces these; leave one "
                "of them out."
            )

    def _check_descriptions(self):
        if self.data_expansion < 0 or (self.data_expansion and self.descriptions is None):
            raise ValueError(
                f"--data_expansion is {self.data_expansion}; expected 0 or more, together with --descriptions."
            )
        others = {
            "--merge_questions": self.merge_questions > 1,
            "--pack_by_ecg": self.pack_by_ecg > 1,
            "--tokens_per_batch": self.tokens_per_batch is not None,
            "--cache_encoder": self.cache_encoder,
            "--system_prompt_file": self.system_prompt_file is not None,
            "--rag_index": self.rag_index is not None,
            "--question_types": self.question_types is not None,
            "--eval_exact_match": self.eval_exact_match is not None,
            "--eval_samples": bool(self.eval_samples),
            "--max_reasoning_tokens": self.max_reasoning_tokens is not None,
            "--dataset_probabilities": self.dataset_probabilities is not None,
        }
        chosen = [option for option, is_chosen in others.items() if is_chosen]
        if self.descriptions is not None and chosen:
            raise ValueError(f"--descriptions trains on one text per ECG; leave out {', '.join(chosen)}.")

    @property
    def system_prompt(self) -> str | None:
        """The content of `system_prompt_file`."""
        if self.system_prompt_file is None:
            return None
        return Path(self.system_prompt_file).read_text(encoding="utf-8").strip()
