"""The outputs of an ECG encoder for many records: logits of its classifier, or its pooled output."""

from os import PathLike

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from elm_hf.checkpoints.load import load_feature_extractor, load_pretrained
from elm_hf.classification.encoder_records import LabelledRecords
from elm_hf.modeling.ecg_leads import LEADS


class EncoderOutputs:
    """
    Computes the outputs of an encoder, with its classifier or without.

    Args:
        checkpoint: folder or repository.
        is_classifier: compute logits; otherwise the pooled output.
        batch_size: number of ECGs in a batch.
        quiet: no progress bar.
    """

    def __init__(self, checkpoint: str | PathLike, is_classifier: bool, batch_size: int, quiet: bool):
        self.output = "logits" if is_classifier else "pooler_output"
        self.batch_size, self.quiet = batch_size, quiet
        self.feature_extractor = load_feature_extractor(checkpoint)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = self._load(str(checkpoint), is_classifier).to(self.device).eval()

    def _load(self, name: str, is_classifier: bool) -> PreTrainedModel:
        if not is_classifier:
            return load_pretrained(AutoModel, name)
        config = load_pretrained(AutoConfig, name)
        if config.problem_type != "multi_label_classification":
            raise ValueError(
                f"{name}: has no classifier of labels, of which an ECG has several (elm-hf pretrain --target labels "
                "trains one); measure the frozen encoder with --linear-probe"
            )
        return load_pretrained(AutoModelForSequenceClassification, name)

    @torch.inference_mode()
    def __call__(self, records: LabelledRecords, rows: np.ndarray, what: str) -> np.ndarray:
        """The logits or pooled outputs of some records, `(rows, size)` float32."""
        ecgs, outputs = records.ecgs(rows), []
        options = {"sampling_rate": records.sampling_rate, "return_tensors": "pt"}
        starts = range(0, len(rows), self.batch_size)
        for start in tqdm(starts, desc=f"encoding, {what}", unit="batch", disable=self.quiet or None):
            batch = ecgs[start : start + self.batch_size]
            inputs = self.feature_extractor(batch, lead_names=[LEADS] * len(batch), **options)
            outputs.append(self.model(**inputs.to(self.device))[self.output].float().cpu())
        return torch.cat(outputs).numpy()
