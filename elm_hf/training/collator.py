"""Collates conversations into training batches, with labels on the assistant's words."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from transformers import ProcessorMixin

from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.training.augmentation import EcgAugmentation, EcgImageAugmentation, sample_rng
from elm_hf.training.encoder_features import EncoderFeatures
from elm_hf.training.packing import IGNORE_INDEX, pack_behind_prefix, pack_without_padding, pad
from elm_hf.training.tokenization import ConversationTokenizer


class ElmDataCollator:
    """
    Collates rows of [`load_elm_dataset`], or packs of them ([`pack_by_ecg`]), for `SFTTrainer`.

    See [`ConversationTokenizer`] for labels and `max_length`.

    Args:
        processor: the ELM's processor.
        max_length: maximum number of tokens of a conversation; None for no limit.
        augmentation: random changes of each ECG, for training only.
        image_augmentation: random changes of the pictures that a vision encoder reads, for training only.
        seed: random seed of the augmentation, which depends only on the seed, the conversation and the `epoch` (see
            [`FollowEpoch`]), not on the worker or the order.
        padding_free: whether to join the conversations in a single row instead of padding them. Attention keeps them
            apart by `position_ids`, flash attention by `cu_seq_lens`.
        encoder_features: features of each record ([`EncoderFeatures`]), used instead of the ECGs.
        ecg_in_every_batch: whether a batch without ECGs gets a flat ECG without labels. Processes that share a step
            wait for each other's encoder and projector, so all of them must run both; a single process does the same,
            so that its optimizer takes the same steps.
        keep_flat: whether flat leads are kept instead of counting as missing, for training on zeros.
        few_lengths: whether batches are padded to one of few lengths ([`padded_length`]) instead of their longest
            conversation, for a compiled model.
        modality_dropout: probability with which the signal or the picture of an ECG is dropped, one as often as the
            other and never both, for training a model that reads both (as for ECG-R1).
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_length: int | None = None,
        augmentation: EcgAugmentation | None = None,
        image_augmentation: EcgImageAugmentation | None = None,
        seed: int = 0,
        padding_free: bool = False,
        encoder_features: EncoderFeatures | None = None,
        ecg_in_every_batch: bool = False,
        keep_flat: bool = False,
        few_lengths: bool = False,
        modality_dropout: float = 0.0,
    ):
        self.processor = processor
        self.tokenize = ConversationTokenizer(processor, max_length)
        self.augmentation = augmentation
        self.image_augmentation = image_augmentation
        self.seed = seed
        self.padding_free = padding_free
        self.encoder_features = encoder_features
        self.ecg_in_every_batch = ecg_in_every_batch
        self.keep_flat = keep_flat
        self.few_lengths = few_lengths
        self.modality_dropout = modality_dropout
        self.epoch = 0

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows: rows, or batches of them ([`fill_batches`]) in `batch`. Each with `messages`, `ecgs` (`(12, samples)` in mV, in the order of `LEADS`) and `sampling_rate` in
                Hz. The `conversation_id`, if present, seeds the augmentation. Rows of [`tokenize_conversations`] have
                `input_ids` and `labels` instead of `messages`; packs have such rows about the same ECGs in
                `conversations`.

        Returns:
            `input_ids`, `attention_mask` and `labels`, each `(rows, length)`, and for packs also `position_ids` and
            `sequence_ids`. Without padding: `input_ids`, `position_ids` and `labels`, each `(1, length)`, and the
            starts of the conversations. If any row has an ECG: `ecg_values (num_ecgs, leads, samples)` and
            `ecg_lead_mask (num_ecgs, leads)`, or `encoder_hidden_states`; for models that read the signal and its
            picture also `ecg_pictures` and `ecg_modality_mask`, and for those that read measured values `ecg_measurements`.

        Raises:
            ValueError: a conversation has no assistant turn, or its ECGs alone fill `max_length`.
        """
        rows = [row for item in rows for row in item.get("batch", [item])]
        packs = [row.get("conversations", [row]) for row in rows]
        first_rows = [pack[0] for pack in packs]
        names = [str(row.get("conversation_id", index)) for index, row in enumerate(first_rows)]
        ecg_data, ecg_ids = self._prepare_ecgs(first_rows, names, self.keep_flat)
        if self.modality_dropout and ecg_ids:
            ecg_data["ecg_modality_mask"] = self._kept_modalities(first_rows, names)
            if "ecg_measurements" in ecg_data:  # they are those of the signal
                has_signal = ecg_data["ecg_modality_mask"][:, :1]
                ecg_data["ecg_measurements"] = ecg_data["ecg_measurements"].where(has_signal, torch.nan)
        remaining = iter(ecg_ids)
        sequences = []
        for pack, name in zip(packs, names):
            its_ids = [next(remaining) for _ in range(len(pack[0]["ecgs"]))]
            sequences.append([self._tokenized(row, its_ids, str(row.get("conversation_id", name))) for row in pack])
        if self.ecg_in_every_batch and not ecg_ids:
            ecg_data, flat_ecg = self._flat_ecg()
            sequences.append([(ids, np.full_like(ids, IGNORE_INDEX)) for ids in flat_ecg])
        if self.padding_free:
            return pack_without_padding([each for pack in sequences for each in pack]) | ecg_data
        pad_token_id = self.processor.tokenizer.pad_token_id
        if not any("conversations" in row for row in rows):
            return pad([pack[0] for pack in sequences], pad_token_id, self.few_lengths) | ecg_data
        batch, ecg_order = pack_behind_prefix(sequences, pad_token_id, self.count_ecgs, self.few_lengths)
        return batch | {name: values[ecg_order] for name, values in ecg_data.items()}

    def _flat_ecg(self) -> tuple[dict[str, torch.Tensor], list[np.ndarray]]:
        row = {"ecgs": [np.zeros((len(LEADS), 1000), dtype=np.float32)], "sampling_rate": 100.0, "ecg_index": [0]}
        return self._prepare_ecgs([row], ["flat"], keep_flat=True)

    def count_ecgs(self, ids: np.ndarray) -> float:
        """Number of ECGs whose placeholders are in `ids`, fractional if one is cut. Symbols count as text."""
        return (ids == self.processor.ecg_token_id).sum() / self.processor.num_ecg_tokens

    def _kept_modalities(self, rows: list[dict], names: list[str]) -> torch.Tensor:
        """Whether the signal, and the picture, of each ECG are kept, `(num_ecgs, 2)`."""
        is_kept = []
        for row, name in zip(rows, names):
            rng = sample_rng(self.seed, self.epoch, zlib.crc32(f"modalities {name}".encode()))
            for _ in row["ecgs"]:
                is_dropped, dropped = rng.random() < self.modality_dropout, rng.integers(2)
                is_kept.append([not is_dropped or place != dropped for place in range(2)])
        return torch.tensor(is_kept)

    def _prepare_ecgs(
        self, rows: list[dict], names: list[str], keep_flat: bool = False
    ) -> tuple[dict[str, torch.Tensor], list[np.ndarray]]:
        """The model's inputs for the ECGs, and the token ids that represent each ECG in the text."""
        num_ecgs = sum(len(row["ecgs"]) for row in rows)
        if num_ecgs == 0:
            return {}, []
        if self.encoder_features is not None:
            records = [index for row in rows for index in row["ecg_index"]]
            ecg_data = {"encoder_hidden_states": self.encoder_features[records]}
            if self.processor.measurements:
                ecg_data["ecg_measurements"] = self.encoder_features.measured(records)
            return ecg_data, self.processor.placeholders(num_ecgs)
        ecgs = [ecg for row in rows for ecg in row["ecgs"]]
        rows_of_ecgs = np.repeat(np.arange(len(rows)), [len(row["ecgs"]) for row in rows])
        rates = [rows[row]["sampling_rate"] for row in rows_of_ecgs]
        rngs = None
        if self.augmentation is not None or self.image_augmentation is not None:
            rng_of_row = [sample_rng(self.seed, self.epoch, zlib.crc32(name.encode())) for name in names]
            rngs = [rng_of_row[row] for row in rows_of_ecgs]
        if self.augmentation is not None:
            ecgs = [self.augmentation(ecg, rate, rng) for ecg, rate, rng in zip(ecgs, rates, rngs)]
        leads = [list(LEADS)] * num_ecgs
        try:
            prepared, ecg_ids = self.processor.prepare_ecgs(ecgs, rates, leads, keep_flat)
        except ValueError:  # an ECG without any signal in the part that the model reads must not end a training run
            reader = self.processor.ecg_reader
            is_flat = [all(reader.read(ecg, rate, LEADS).causes) for ecg, rate in zip(ecgs, rates)]
            if keep_flat or not any(is_flat):
                raise
            prepared, ecg_ids = self.processor.prepare_ecgs(ecgs, rates, leads, is_flat)
        names_read = self.processor.model_input_names
        ecg_data = {name: torch.from_numpy(values) for name, values in prepared.items() if name in names_read}
        name = "ecg_pictures" if self.processor.reads_both else "ecg_values"
        if self.image_augmentation is not None and name in ecg_data:
            pictures = self.processor.image_processor
            ecg_data[name] = self.image_augmentation(ecg_data[name], rngs, pictures.image_mean, pictures.image_std)
        return ecg_data, ecg_ids

    def _tokenized(self, row: dict, ecg_ids: list[np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and labels of a conversation, both `(length,)`."""
        if "input_ids" in row:
            return row["input_ids"], row["labels"]
        return self.tokenize(row["messages"], ecg_ids, name)
