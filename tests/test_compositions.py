"""Every representation with every encoder, connector and LLM family: forward, backward, generate, save, reload elsewhere."""

import textwrap
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from tiny_models import LLM_FAMILIES, tiny_llm, tiny_tokenizer
from transformers import AutoConfig, AutoModel, PreTrainedModel
from warm_python import run_python

from elm_hf.checkpoints.measurements import scaled_measurements
from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.modeling.ecg_encoders import import_ecg_encoders
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.image_processing_ecg import EcgImageProcessor
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.processing_elm import ElmProcessor
from elm_hf.modeling.processing_elm_base import BaseElmProcessor, add_ecg_token
from elm_hf.modeling.processing_elm_signal_vision import ElmSignalVisionProcessor
from elm_hf.modeling.processing_elm_symbol import ElmSymbolProcessor
from elm_hf.modeling.processing_elm_vision import ElmVisionProcessor


import_ecg_encoders()  # for the Auto classes

NUM_SAMPLES = 500
BOTH = ["signal", "image"]
# Tokens of an ECG, and of its picture.
NUM_TOKENS, NUM_PICTURE_TOKENS = 5, 3
_VIT = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
_AUTOENCODER = _VIT | {"num_samples": NUM_SAMPLES}
_PICTURE = _VIT | {"hidden_size": 32, "image_size": 32, "patch_size": 16}
ECG_ENCODERS = {
    "ecg_resnet": {"model_type": "ecg_resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "st_mem": {"model_type": "st_mem", "patch_size": 50, **_AUTOENCODER},
    "mtae": {"model_type": "mtae", "patch_size": 50, **_AUTOENCODER},
    "mlae": {"model_type": "mlae", **_AUTOENCODER},
    "merl-resnet": {
        "model_type": "merl",
        "encoder_type": "resnet",
        "num_samples": NUM_SAMPLES,
        "hidden_sizes": [8, 8, 8, 8],
    },
    "merl-vit": {"model_type": "merl", "encoder_type": "vit", "patch_size": 50, **_AUTOENCODER},
}
_HUBERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
_HUBERT |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
FOUNDATION_ENCODERS = {
    "net1d": {"model_type": "net1d", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "group_size": 4},
    "ecg_fm": {"model_type": "ecg_fm", "conv_dim": [16] * 4, **_HUBERT},
    "hubert_ecg": {"model_type": "hubert_ecg", "conv_dim": [16] * 5, **_HUBERT},
    "ecg_jepa": {
        "model_type": "ecg_jepa",
        "num_leads": 12,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "ecg_cpc": {"model_type": "ecg_cpc", "hidden_size": 32, "num_hidden_layers": 1},
    "ecg_coca": {"model_type": "ecg_coca", **_AUTOENCODER, "hidden_size": 128, "num_attention_heads": 2},
}
VISION_ENCODERS = {
    "vit": {"model_type": "vit", **_PICTURE},
    "clip": {"model_type": "clip_vision_model", **_PICTURE},
    "siglip": {"model_type": "siglip_vision_model", **_PICTURE},
    "siglip2": {"model_type": "siglip2_vision_model", **_VIT, "hidden_size": 32, "patch_size": 16, "num_patches": 4},
}


@dataclass
class Composition:
    """One of each kind of part; `encoder` and `picture_encoder` are configurations."""

    representation: str | list[str]
    encoder: dict | None
    projector: str | None
    picture_encoder: dict | None = None
    measurements: list[str] | None = None


COMPOSITIONS = {
    **{f"signal-{projector}": Composition("signal", None, projector) for projector in ("linear", "patch", "conv")},
    **{
        f"{representation}-{name}-{projector}": Composition(representation, config, projector)
        for representation, encoders in (
            ("signal", ECG_ENCODERS),
            ("stacked_signal", VISION_ENCODERS),
            ("image", VISION_ENCODERS),
        )
        for name, config in encoders.items()
        for projector in ("linear", "mlp")
    },
    **{f"signal-{name}-mlp": Composition("signal", config, "mlp") for name, config in FOUNDATION_ENCODERS.items()},
    "symbol": Composition("symbol", None, None),
    "both-st_mem-siglip2": Composition(BOTH, ECG_ENCODERS["st_mem"], "linear", VISION_ENCODERS["siglip2"]),
    "measuring-patch": Composition("signal", None, "patch", measurements=["heart_rate", "qrs_ms", "st_mv_V2"]),
    "both-patch-vit": Composition(BOTH, None, "patch", VISION_ENCODERS["vit"]),
}


def compose(
    parts: Composition, family: str, ecg_tokenizer, llm: PreTrainedModel | None = None
) -> tuple[ElmForCausalLM, BaseElmProcessor]:
    tokenizer = tiny_tokenizer(family)
    encoder, picture_encoder = (
        None if config is None else AutoModel.from_config(AutoConfig.for_model(**config))
        for config in (parts.encoder, parts.picture_encoder)
    )
    of_picture = 0 if picture_encoder is None else NUM_PICTURE_TOKENS
    measured = parts.measurements or []
    num_signal_tokens = 1 if parts.encoder is None and parts.projector == "linear" else NUM_TOKENS
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        encoder,
        llm or tiny_llm(family),
        ecg_token_id=add_ecg_token(tokenizer),
        ecg_vocab_size=len(ecg_tokenizer) if parts.representation == "symbol" else None,
        representation=parts.representation,
        projector_type=parts.projector,
        num_ecg_tokens=num_signal_tokens + of_picture + len(measured),
        num_samples=NUM_SAMPLES,
        picture_encoder=picture_encoder,
        num_picture_tokens=of_picture or None,
        **scaled_measurements(measured) if measured else {},
    )
    if parts.representation == "symbol":
        extractor = EcgFeatureExtractor(num_samples=NUM_SAMPLES, normalization="none")
        offset = model.config.ecg_token_offset
        return model, ElmSymbolProcessor(extractor, tokenizer, ecg_tokenizer, offset, max_ecg_tokens=60)
    if parts.representation == "signal":
        extractor = EcgFeatureExtractor(num_samples=NUM_SAMPLES)
        number = model.config.num_ecg_tokens
        return model, ElmProcessor(extractor, tokenizer, number, measurements=parts.measurements)
    form = "image" if parts.representation == BOTH else parts.representation
    pictures = EcgImageProcessor(form, size={"height": 32, "width": 32}, num_samples=NUM_SAMPLES)
    if parts.representation == BOTH:
        extractor = EcgFeatureExtractor(num_samples=NUM_SAMPLES)
        return model, ElmSignalVisionProcessor(extractor, pictures, tokenizer, model.config.num_ecg_tokens)
    return model, ElmVisionProcessor(pictures, tokenizer, model.config.num_ecg_tokens)


def conversation(ecgs: np.ndarray) -> list[dict]:
    items = [{"type": "ecg", "ecg": ecg, "sampling_rate": 250} for ecg in ecgs]
    question = [*items, {"type": "text", "text": "What is the rhythm?"}]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "sinus rhythm"}]


RELOAD = """
    import sys
    sys.modules["elm_hf"] = None
    import json
    from pathlib import Path
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoProcessor

    torch.set_num_threads(1)
    ecgs = load_file(sys.argv[1] + "/ecgs.safetensors")["ecgs"].numpy()
    logits = {}
    for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        items = [{"type": "ecg", "ecg": ecg, "sampling_rate": 250} for ecg in ecgs]
        content = [*items, {"type": "text", "text": "What is the rhythm?"}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "sinus rhythm"}]
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        with torch.no_grad():
            logits[folder.name] = model(**inputs).logits.contiguous()
    save_file(logits, sys.argv[1] + "/logits.safetensors")
"""


# With Qwen 2 every composition is read back, with the other families one of each kind: files do not depend on the pair.
READ_BACK = {
    "signal-patch",
    "signal-st_mem-mlp",
    "stacked_signal-vit-mlp",
    "image-siglip-mlp",
    "both-patch-vit",
    "symbol",
}


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_every_composition_learns_answers_and_loads_elsewhere(family, ecgs, ecg_tokenizer, tmp_path):
    save_file({"ecgs": torch.from_numpy(ecgs[:2].copy())}, tmp_path / "ecgs.safetensors")
    expected = {}
    assert set(COMPOSITIONS) >= READ_BACK
    for name, parts in COMPOSITIONS.items():
        model, processor = compose(parts, family, ecg_tokenizer)
        inputs = processor.apply_chat_template(
            conversation(ecgs[:2]), tokenize=True, return_dict=True, return_tensors="pt"
        )
        model.train()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        without_gradient = [
            key for key, weight in model.named_parameters() if weight.requires_grad and weight.grad is None
        ]
        assert not [key for key in without_gradient if ".encoder." not in key], name
        model.eval().zero_grad()
        if family == "qwen2" or name in READ_BACK:
            with torch.no_grad():
                expected[name] = model(**inputs).logits
        prompt = processor.apply_chat_template(
            conversation(ecgs[:2])[:1],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        output = model.generate(**prompt, max_new_tokens=3, do_sample=False)
        new = output[0, prompt["input_ids"].shape[1] :]
        assert len(new) and not processor.is_ecg_token(new.numpy()).any(), name
        if name in expected:
            model.save_pretrained(tmp_path / name)
            processor.save_pretrained(tmp_path / name)
    done = run_python(["-c", textwrap.dedent(RELOAD), tmp_path])
    assert done.returncode == 0, done.stderr
    reloaded = load_file(tmp_path / "logits.safetensors")
    assert reloaded.keys() == expected.keys()
    for name, logits in expected.items():
        assert torch.allclose(reloaded[name], logits, atol=1e-5), name


@pytest.mark.parametrize("name", sorted(set(COMPOSITIONS) - {"symbol"}))
def test_the_ecg_matters(name, ecgs, ecg_tokenizer):
    """Another ECG gives other logits behind it, the same one the same."""
    model, processor = compose(COMPOSITIONS[name], "qwen2", ecg_tokenizer)
    rows = [
        processor.apply_chat_template(conversation(pair), tokenize=True, return_dict=True, return_tensors="pt")
        for pair in (ecgs[:1], ecgs[:1], ecgs[1:2])
    ]
    with torch.no_grad():
        first, again, other = (model.eval()(**inputs).logits[0, -1] for inputs in rows)
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-7)


@pytest.mark.parametrize("picture_encoder", [None, VISION_ENCODERS["vit"]])
def test_new_tokens_are_as_long_as_text(picture_encoder):
    parts = Composition("signal", ECG_ENCODERS["st_mem"], "mlp", measurements=["heart_rate", "qrs_ms"])
    if picture_encoder is not None:
        parts = Composition(BOTH, ECG_ENCODERS["st_mem"], "linear", picture_encoder, ["heart_rate", "qrs_ms"])
    llm = tiny_llm("qwen2")
    llm.get_input_embeddings().weight.data.normal_(std=0.5)
    model, _ = compose(parts, "qwen2", None, llm)
    projector, config = model.model.projector, model.config.without_measurements
    of_signal = projector.ecg if picture_encoder is None else projector.ecg.signal
    encoder = model.model.encoder if picture_encoder is None else model.model.encoder.signal
    signals = torch.randn(8, 12, NUM_SAMPLES)
    with torch.no_grad():
        tokens = {
            "ECG": of_signal(encoder(signals).last_hidden_state),
            "measured values": projector.measurements(torch.tensor([[80.0, 110.0], [torch.nan, 90.0]])),
        }
    for name, found in tokens.items():
        assert found.norm(dim=-1).mean() == pytest.approx(0.5 * config.embedding_size**0.5, rel=0.25), name


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"representation": "symbol", "encoder_config": ECG_ENCODERS["st_mem"]}, '"symbol" does not fit a "st_mem"'),
        ({"representation": "image", "encoder_config": ECG_ENCODERS["mtae"]}, "it takes a vision encoder"),
        ({"representation": "stacked_signal"}, '"stacked_signal" does not fit no encoder'),
        ({"representation": "signal", "encoder_config": VISION_ENCODERS["vit"]}, "it takes an ECG encoder"),
        ({"representation": "symbol", "projector_type": "mlp"}, "no encoder and no projector"),
        ({"representation": "symbol"}, "needs ecg_token_offset and ecg_vocab_size"),
        ({"encoder_config": ECG_ENCODERS["st_mem"], "projector_type": "conv"}, "choose one of linear, mlp"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        ElmConfig(**settings)


def test_an_encoder_of_another_length_is_refused(ecgs):
    encoder = AutoModel.from_config(AutoConfig.for_model(**ECG_ENCODERS["st_mem"]))
    with pytest.raises(ValueError, match='"st_mem" encoder does not take ECGs of 12 leads and 2500 samples'):
        ElmForCausalLM.from_encoder_llm_pretrained(encoder, tiny_llm("qwen2"), ecg_token_id=400, num_samples=2500)
