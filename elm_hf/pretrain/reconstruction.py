"""Pictures of what a masked autoencoder saw of an ECG and what it made of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedModel, TrainerCallback

from elm_hf.ecg.plot import plot_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor


def plot_reconstruction(
    model: PreTrainedModel, feature_extractor: EcgFeatureExtractor, ecg: np.ndarray, sampling_rate: float
) -> Image.Image:
    """
    Draws an ECG three times on paper: what is left of it after masking, the whole, and the model's reconstruction.

    Args:
        model: `StMemForPreTraining`, `MtaeForPreTraining` or `MlaeForPreTraining`.
        feature_extractor: the model's.
        ecg: `(12, samples)` in millivolt, leads in the order of `LEADS`.
        sampling_rate: of the ECG in Hz. Masks are drawn from torch's random numbers.

    Returns:
        The picture; where the model saw the ECG, its reconstruction is the ECG itself.
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
            (f"What the model saw ({1 - mask.double().mean():.0%})", seen),
            ("The ECG", values[0].numpy()),
            ("The reconstruction", reconstructed),
        )
    ]
    return _stacked(pages)


class ReconstructionPlots(TrainerCallback):
    """
    Saves reconstructions as PNG beside each checkpoint.

    Args:
        feature_extractor: the model's.
        records: rows of `PretrainingRecords`, of which the first `number` are drawn.
        number: how many.
    """

    def __init__(self, feature_extractor: EcgFeatureExtractor, records: Dataset, number: int):
        self.feature_extractor = feature_extractor
        self.records = records
        self.number = number

    def on_save(self, args, state, control, model=None, **kwargs):
        if state.is_world_process_zero:
            self.draw(model, Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def draw(self, model: PreTrainedModel, folder: Path):
        """Writes `reconstruction-0.png`, ... into the folder, always with the same masks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for number, row in enumerate(self.records.select(range(min(self.number, len(self.records))))):
                if np.isnan(row["ecg"]).any():
                    continue
                picture = plot_reconstruction(model, self.feature_extractor, row["ecg"], row["sampling_rate"])
                picture.save(folder / f"reconstruction-{number}.png")


def _unpatchify(model: PreTrainedModel, patches: torch.Tensor) -> np.ndarray:
    """The signal `(leads, samples)` of the patches of one ECG, by the way in which the model would cut it."""
    shape = (model.config.num_leads, patches.numel() // model.config.num_leads)
    places = model.base_model.patchify(torch.arange(patches.numel(), dtype=torch.double).reshape(1, *shape))
    signal = torch.empty(patches.numel(), dtype=torch.double)
    signal[places.flatten().long()] = patches.flatten()
    return signal.reshape(shape).numpy()


def _millivolt_of(
    feature_extractor: EcgFeatureExtractor, ecg: np.ndarray, sampling_rate: float, values: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """The function that undoes the normalisation of this ECG, which is a shift and a scale."""
    settings = feature_extractor.to_dict() | {"normalization": "none"}
    plain = EcgFeatureExtractor.from_dict(settings)
    millivolt = plain(ecg, sampling_rate, LEADS)["ecg_values"][0]
    scale = millivolt.std() / max(values.std(), 1e-9)
    return lambda page: (page - values.mean()) * scale + millivolt.mean()


def _stacked(pages: list[Image.Image]) -> Image.Image:
    picture = Image.new("RGB", (max(page.width for page in pages), sum(page.height for page in pages)), "white")
    top = 0
    for page in pages:
        picture.paste(page, (0, top))
        top += page.height
    return picture
