"""Pictures of an ECG, of the part that a masked autoencoder sees, and of its reconstruction."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedModel

from elm_hf.ecg.plot import plot_ecg, stack_pictures
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor


def plot_reconstruction(
    model: PreTrainedModel, feature_extractor: EcgFeatureExtractor, ecg: np.ndarray, sampling_rate: float
) -> Image.Image:
    """
    Draws an ECG three times on ECG paper: the part that is not masked, the whole ECG, and the model's reconstruction.
    The mask is drawn with torch's global random generator.

    Args:
        model: `StMemForPreTraining`, `MtaeForPreTraining` or `MlaeForPreTraining`.
        feature_extractor: feature extractor of the model.
        ecg: array `(12, samples)` in millivolt, leads in the order of `LEADS`.
        sampling_rate: sampling rate of the ECG in Hz.

    Returns:
        The picture. The reconstruction shows the ECG itself where it is not masked.
    """
    was_training = model.training
    inputs = feature_extractor(ecg, sampling_rate, LEADS, return_tensors="pt").to(model.device)
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    model.train(was_training)
    values = inputs["ecg_values"].cpu().double()
    patches = model.base_model.patchify(values)
    prediction = outputs.prediction.cpu().double()
    if model.config.norm_pix_loss:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        prediction = prediction * (variance + 1e-6).sqrt() + mean
    mask = outputs.mask.cpu()[..., None].bool()
    seen = _unpatchify(model, torch.where(mask, torch.nan, patches))
    reconstructed = _unpatchify(model, torch.where(mask, prediction, patches))

    millivolt = _millivolt_of(feature_extractor, ecg, sampling_rate, values[0].numpy())
    pages = [
        plot_ecg(millivolt(page), feature_extractor.sampling_rate, feature_extractor.leads, title=title)
        for title, page in (
            (f"Visible part ({1 - mask.double().mean():.0%})", seen),
            ("ECG", values[0].numpy()),
            ("Reconstruction", reconstructed),
        )
    ]
    return stack_pictures(pages)


class ReconstructionPlots:
    """
    Pictures of reconstructions, for each checkpoint.

    Args:
        feature_extractor: feature extractor of the model.
        records: rows of `PretrainingRecords`, of which the first `number` are drawn.
        number: number of ECGs to draw. ECGs with missing leads are skipped.
    """

    def __init__(self, feature_extractor: EcgFeatureExtractor, records: Dataset, number: int):
        self.feature_extractor = feature_extractor
        self.records = records
        self.number = number

    def draw(self, model: PreTrainedModel, folder: Path):
        """Writes `reconstruction-0.png`, … into the folder, with the same masks each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for number, row in enumerate(self.records.select(range(min(self.number, len(self.records))))):
                if np.isnan(row["ecg"]).any():
                    continue
                picture = plot_reconstruction(model, self.feature_extractor, row["ecg"], row["sampling_rate"])
                picture.save(folder / f"reconstruction-{number}.png")


def _unpatchify(model: PreTrainedModel, patches: torch.Tensor) -> np.ndarray:
    """The signal `(leads, samples)` of the patches of one ECG, the inverse of the model's `patchify`."""
    shape = (model.config.num_leads, patches.numel() // model.config.num_leads)
    places = model.base_model.patchify(torch.arange(patches.numel(), dtype=torch.double).reshape(1, *shape))
    signal = torch.empty(patches.numel(), dtype=torch.double)
    signal[places.flatten().long()] = patches.flatten()
    return signal.reshape(shape).numpy()


def _millivolt_of(
    feature_extractor: EcgFeatureExtractor, ecg: np.ndarray, sampling_rate: float, values: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that undoes the normalization of this ECG, which is a shift and a scale."""
    settings = feature_extractor.to_dict() | {"normalization": "none"}
    plain = EcgFeatureExtractor.from_dict(settings)
    millivolt = plain(ecg, sampling_rate, LEADS)["ecg_values"][0]
    scale = millivolt.std() / max(values.std(), 1e-9)
    return lambda page: (page - values.mean()) * scale + millivolt.mean()
