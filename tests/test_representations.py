"""Creating and training ELMs of each representation: from a folder of parts to a checkpoint that answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LLM
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from test_training import changed_weights, some_logits, train
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.loading import load_elm_dataset
from elm_hf.modeling.configuration_st_mem import StMemConfig
from elm_hf.modeling.ecg_raster import EcgPaper
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_st_mem import StMemModel
from elm_hf.training.augmentation import EcgAugmentation
from elm_hf.training.collator import ElmDataCollator


@pytest.fixture(scope="module")
def create(simulated_dataset, tmp_path_factory):
    """Creates a tiny ELM with a new LLM."""

    def create(name: str, **parts) -> Path:
        folder = tmp_path_factory.mktemp(name)
        settings = {"text_config": TINY_LLM | {"max_position_embeddings": 4096}, **parts.pop("settings", {})}
        (folder / "elm.json").write_text(json.dumps(settings))
        create_elm(
            folder / "elm",
            config=folder / "elm.json",
            tokenizer_dataset=str(simulated_dataset),
            vocab_size=400,
            **parts,
        )
        return folder / "elm"

    return create


@pytest.fixture(scope="module")
def symbol_elm(create, ecg_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    ecg_tokenizer.save_pretrained(folder)
    return create("symbol", representation="symbol", ecg_tokenizer=str(folder), max_ecg_tokens=240, seconds=2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A whole CLIP, text tower and all, as CLIP checkpoints are."""
    folder = tmp_path_factory.mktemp("clip")
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = size | {"image_size": 48, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=size | {"vocab_size": 99}, vision_config=vision)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


def test_symbols_are_tokens_of_the_prompt(symbol_elm, simulated_dataset, ecg_tokenizer):
    model, processor = load_checkpoint(symbol_elm)
    offset = model.config.ecg_token_offset
    assert model.get_input_embeddings().num_embeddings == offset + len(ecg_tokenizer)
    processor.max_ecg_tokens = None
    ecg = load_elm_dataset(simulated_dataset)[0]["ecgs"][0]
    inputs = processor(f"{processor.ecg_token} What?", ecg, sampling_rate=250)
    assert "ecg_values" not in inputs
    ids = inputs["input_ids"][0]
    tokens = ids[processor.is_ecg_token(ids)] - offset
    assert tokens.tolist() == ecg_tokenizer.encode_ecg(ecg)
    assert processor.tokenizer.decode(ids[~processor.is_ecg_token(ids)]) == " What?"
    edges = ecg_tokenizer.value_range[0] + np.concatenate([[0], ecg_tokenizer.level_widths().cumsum()])
    decoded = ecg_tokenizer.decode_ecg(tokens)
    assert edges[0] < ecg.min() and ecg.max() < edges[-1]
    assert np.array_equal(np.digitize(decoded, edges), np.digitize(ecg, edges))


def test_a_long_ecg_loses_the_end_of_every_lead(symbol_elm, simulated_dataset, ecg_tokenizer):
    _, processor = load_checkpoint(symbol_elm)
    ecg = load_elm_dataset(simulated_dataset)[0]["ecgs"][0]
    whole = np.array(ecg_tokenizer.encode_ecg(ecg))
    begins_early = ecg_tokenizer.token_spans(whole)[:, 2] < 100  # leads are words, so that every token has one span
    processor.max_ecg_tokens = int(begins_early.sum())
    ids = processor(processor.ecg_token, ecg, sampling_rate=250)["input_ids"][0]
    assert (ids - processor.ecg_token_offset).tolist() == whole[begins_early].tolist()


def test_lora_leaves_ecg_tokens_alone_unless_told(symbol_elm, simulated_dataset, tmp_path):
    frozen = train(symbol_elm, simulated_dataset, tmp_path / "frozen", "--use_peft", "--trainable", "llm")
    assert all("lora_" in name for name in load_file(frozen / "adapter_model.safetensors"))
    flags = ("--use_peft", "--trainable", "llm", "ecg_tokens")
    adapter = train(symbol_elm, simulated_dataset, tmp_path / "learnt", *flags)
    model = AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload()
    base, processor = load_checkpoint(symbol_elm)
    first = base.config.ecg_token_offset
    before, after = (one.get_input_embeddings().weight.detach() for one in (base, model))
    assert torch.equal(before[:first], after[:first])
    assert not torch.equal(before[first:], after[first:])
    assert some_logits(model, processor, simulated_dataset).isfinite().all()


def test_ecg_tokens_are_those_of_a_symbol_model(tiny_elm, symbol_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match='representation "symbol"; found representation "signal" with --use_peft'):
        train(tiny_elm, simulated_dataset, tmp_path, "--use_peft", "--trainable", "llm", "ecg_tokens")
    with pytest.raises(ValueError, match='needs --use_peft.*; found representation "symbol" without --use_peft'):
        train(symbol_elm, simulated_dataset, tmp_path, "--trainable", "llm", "ecg_tokens")


@pytest.mark.parametrize("representation", ["image", "stacked_signal"])
def test_clips_vision_tower_reads_pictures_and_learns(representation, create, clip, simulated_dataset, tmp_path):
    elm = create(representation, representation=representation, encoder=str(clip), num_ecg_tokens=4, seconds=2)
    model, processor = load_checkpoint(elm)
    assert model.config.encoder_config.model_type == "clip_vision_model"
    reference = CLIPModel.from_pretrained(clip).vision_model
    row = load_elm_dataset(simulated_dataset)[0]
    pixels = processor.image_processor(row["ecgs"][0], sampling_rate=250, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 48, 48)
    with torch.no_grad():
        expected = reference(pixel_values=pixels).last_hidden_state
        assert torch.allclose(model.get_ecg_features(pixels).last_hidden_state, expected, atol=1e-5)
    changes = ("--noise", "0.1", "--rotation", "2", "--blur", "1", "--brightness", "0.1")
    trained = train(elm, simulated_dataset, tmp_path / "out", *changes)
    assert any(".encoder." in name for name in changed_weights(elm, trained))


def test_larger_pictures_have_interpolated_positions(create, clip, simulated_dataset):
    parts = {"representation": "image", "encoder": str(clip), "num_ecg_tokens": 4, "seconds": 2}
    model, processor = load_checkpoint(create("large", **parts, picture_size=96))
    reference = CLIPModel.from_pretrained(clip).vision_model
    row = load_elm_dataset(simulated_dataset)[0]
    pixels = processor.image_processor(row["ecgs"][0], sampling_rate=250, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 96, 96)
    with torch.no_grad():
        expected = reference(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        assert expected.shape[1] == 1 + 6 * 6
        torch.testing.assert_close(model.get_ecg_features(pixels).last_hidden_state, expected)
    with pytest.raises(ValueError, match="takes pictures of 96 x 96 pixels, got 48 x 48"):
        model.get_ecg_features(pixels[:, :, :48, :48])
    with pytest.raises(ValueError, match="--picture-size 100: expected a multiple of the encoder's patch size, 16"):
        create("odd", **parts, picture_size=100)
    with pytest.raises(ValueError, match="--picture-size is for models that read pictures"):
        create("signal", picture_size=96)


def test_a_millimetre_has_two_pixels_at_512():
    """10 s at 25 mm/s are 250 mm, which fill the width of the picture."""
    assert EcgPaper(seconds=10, height=224, width=224).pixels_per_mm == pytest.approx(0.86, abs=0.05)
    assert EcgPaper(seconds=10, height=512, width=512).pixels_per_mm >= 2


@pytest.mark.parametrize("normalization, warns", [(None, False), ("z_score", True), ("min_max", True)])
def test_a_scale_of_each_ecg_by_itself_is_warned_about(normalization, warns, create, caplog):
    elm = create("signal", normalization=normalization)
    assert load_checkpoint(elm)[1].feature_extractor.normalization == (normalization or "millivolt")
    assert ("cannot learn criteria of voltage" in caplog.text) == warns


def test_a_pretrained_encoder_brings_its_own_signal_conventions(create, simulated_dataset, tmp_path):
    config = StMemConfig(num_samples=450, hidden_size=64, num_hidden_layers=1, num_attention_heads=1)
    StMemModel(config).save_pretrained(tmp_path / "encoder")
    settings = {"num_samples": 450, "normalization": "z_score", "band_pass": [0.67, 40]}
    EcgFeatureExtractor(**settings).save_pretrained(tmp_path / "encoder")
    elm = create("st_mem", encoder=str(tmp_path / "encoder"), num_ecg_tokens=6)
    model, processor = load_checkpoint(elm)
    assert model.config.num_samples == 450
    for name, value in settings.items():
        assert getattr(processor.feature_extractor, name) == value
    pretrained = load_file(tmp_path / "encoder" / "model.safetensors")
    ours = load_file(elm / "model.safetensors")
    assert all(torch.equal(ours[f"model.encoder.{name}"], weight) for name, weight in pretrained.items())
    assert some_logits(model, processor, simulated_dataset).isfinite().all()


def test_augmentation_differs_by_epoch_and_not_by_worker(tiny_elm, simulated_dataset):
    _, processor = load_checkpoint(tiny_elm)
    rows = load_elm_dataset(simulated_dataset)
    collator = ElmDataCollator(processor, augmentation=EcgAugmentation(noise=0.1))
    first = collator([rows[0], rows[5]])["ecg_values"]
    assert torch.equal(first[:1], collator([rows[0]])["ecg_values"])
    collator.epoch = 1
    assert not torch.equal(first[:1], collator([rows[0]])["ecg_values"])
    plain = ElmDataCollator(processor)([rows[0]])["ecg_values"]
    assert torch.equal(plain, ElmDataCollator(processor)([rows[0]])["ecg_values"]) and not torch.equal(
        plain, first[:1]
    )


def test_symbols_need_their_tokenizer(create):
    with pytest.raises(ValueError, match="--ecg-tokenizer and --representation symbol must be used together"):
        create("wrong", representation="symbol")
