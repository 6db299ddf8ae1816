"""The outputs of an ECG encoder for many records: logits of its classifier, or its pooled output."""

from os import PathLike

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from elm_hf.checkpoints.load import load_feature_extractor, load_pretrained
from elm_hf.evaluation.encoder_records import LabelledRecords
from elm_hf.modeling.ecg_leads import LEADS


class EncoderOutputs:
    """
    Computes the outputs of an encoder, with its classifier or without.

    Args:
        checkpoint: folder or repository.
        is_classifier: compute logits; otherwise the pooled output.
        batch_size: number of ECGs in a batch.
        quiet: no progress bar.
        window_seconds: length of the windows, each overlapping half of the next one, that a classifier reads one by one; its
            logits are then those of the mean probability (Strodthoff et al. 2020). Default: it reads the whole ECG at once.

    Raises:
        ValueError: the encoder has no classifier of labels, or the windows are longer than what it reads.
    """

    def __init__(
        self,
        checkpoint: str | PathLike,
        is_classifier: bool,
        batch_size: int,
        quiet: bool,
        window_seconds: float | None = None,
    ):
        self.output = "logits" if is_classifier else "pooler_output"
        self.batch_size, self.quiet = batch_size, quiet
        self.feature_extractor = load_feature_extractor(checkpoint)
        length = self.feature_extractor.num_samples
        self.window = (
            length if window_seconds is None else round(window_seconds * self.feature_extractor.sampling_rate)
        )
        if not 2 <= self.window <= length:
            seconds = length / self.feature_extractor.sampling_rate
            raise ValueError(
                f"--window-seconds {window_seconds:g}: {checkpoint} reads {seconds:g} s; name less than that"
            )
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
            outputs.append(self._outputs_of(dict(inputs.to(self.device))).cpu())
        return torch.cat(outputs).numpy()

    def _outputs_of(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        length = self.feature_extractor.num_samples
        if self.window == length:
            return self.model(**inputs)[self.output].float()
        starts = [*range(0, length - self.window, self.window // 2), length - self.window]
        name = self.model.main_input_name
        windows = [inputs | {name: inputs[name][..., start : start + self.window]} for start in starts]
        probability = torch.stack([self.model(**one)[self.output].double().sigmoid() for one in windows]).mean(dim=0)
        return probability.logit(eps=1e-12).float()
