"""Size and time of the published encoders, with random weights: one ECG of 10 s with 12 leads, one core, float32.

python benchmarks/encoders.py [NAME ...]
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from elm_hf.checkpoints.convert_net1d import clef_feature_extractor
from elm_hf.checkpoints.preprocessing import FEATURE_EXTRACTORS
from elm_hf.modeling.ecg_encoders import import_ecg_encoders
from elm_hf.modeling.ecg_leads import LEADS


ROUNDS = 3
CLEF_SMALL = {"num_leads": 1, "embedding_size": 32, "hidden_sizes": [32, 64, 64, 128, 128, 256]}
CLEF_SMALL |= {"depths": [1, 1, 2, 2, 2, 2], "bottleneck_ratio": 0.5, "group_size": 8}
CLEF_LARGE = {"num_leads": 1, "embedding_size": 128, "hidden_sizes": [128, 256, 256, 512, 512, 1024, 1024, 2048, 2048]}
CLEF_LARGE |= {"depths": [2, 3, 3, 4, 4, 5, 5, 6, 6], "bottleneck_ratio": 1.5, "group_size": 32}
HUBERT_SMALL = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048}
HUBERT_LARGE = {"hidden_size": 960, "num_hidden_layers": 16, "num_attention_heads": 12, "intermediate_size": 3840}
# Type and fields of the configuration.
ENCODERS = {
    "ecgfounder": ("net1d", {}),
    "ecgfounder-1-lead": ("net1d", {"num_leads": 1}),
    "clef-small": ("net1d", CLEF_SMALL),
    "clef-medium": ("net1d", {"num_leads": 1}),
    "clef-large": ("net1d", CLEF_LARGE),
    "ecg_fm": ("ecg_fm", {}),
    "hubert_ecg-small": ("hubert_ecg", HUBERT_SMALL),
    "hubert_ecg-base": ("hubert_ecg", {}),
    "hubert_ecg-large": ("hubert_ecg", HUBERT_LARGE),
    "ecg_jepa": ("ecg_jepa", {}),
    "ecg_cpc": ("ecg_cpc", {}),
    "ecg_coca": ("ecg_coca", {}),
}


def fastest(call: Callable[[], object]) -> float:
    """Milliseconds of processor time of the fastest of some calls, after one that is not counted."""
    call()
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def measure(name: str, ecg: np.ndarray) -> str:
    """A line about an encoder of `ENCODERS` on an ECG `(12, samples)` at 500 Hz."""
    model_type, fields = ENCODERS[name]
    config = AutoConfig.for_model(model_type, **fields)
    model = AutoModel.from_config(config).eval()
    extractor = clef_feature_extractor(config) if "clef" in name else FEATURE_EXTRACTORS[model_type](config)

    def prepare():
        return extractor(ecg, sampling_rate=500, lead_names=list(LEADS), return_tensors="pt")

    inputs = prepare()
    with torch.inference_mode():
        _, tokens, width = model(**inputs).last_hidden_state.shape
        preparation, forward = fastest(prepare), fastest(lambda: model(**inputs))
    return (
        f"{name:18} {model.num_parameters() / 1e6:7.2f} M, tokens {tokens} x {width}, preparation {preparation:6.1f} ms, "
        f"model {forward:7.1f} ms"
    )


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    import_ecg_encoders()
    ecg = np.random.default_rng(0).normal(0, 0.3, (12, 5000))
    for name in names or ENCODERS:
        print(measure(name, ecg), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
