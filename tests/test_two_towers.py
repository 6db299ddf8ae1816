"""Models that read the signal of an ECG and its picture: the same tokens as two models, with either of them absent."""

import json
import re
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LLM
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file
from test_compositions import (
    BOTH,
    ECG_ENCODERS,
    FOUNDATION_ENCODERS,
    NUM_PICTURE_TOKENS,
    NUM_TOKENS,
    VISION_ENCODERS,
    Composition,
    compose,
    conversation,
)
from test_packing import QUESTIONS, assert_same, row
from test_report import CONTROLS, predictions_of
from test_training import changed_weights, some_logits, train
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from elm_hf.checkpoints.card import parts_of
from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.merge import merge_adapter
from elm_hf.data.loading import load_elm_dataset
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.evaluation.report import build_report
from elm_hf.evaluation.report_markdown import report_markdown
from elm_hf.inference.generation import answer
from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_pictures import EcgPicture
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.processing_elm_signal_vision import ElmSignalVisionProcessor
from elm_hf.retrieval.index import EncoderVectors
from elm_hf.scoring.names import CONDITIONS, MODALITY_CONDITIONS
from elm_hf.scoring.scores import Questions
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.encoder_cache import cache_encoders_of
from elm_hf.training.shared_prompts import SharedPrompts


SIGNAL_ENCODERS = ECG_ENCODERS | FOUNDATION_ENCODERS
# Each encoder of signals, and each projector without one, with a vision encoder.
PAIRS = [*SIGNAL_ENCODERS, "linear", "patch", "conv"]
PAIRS = list(zip(PAIRS, cycle(VISION_ENCODERS)))


def compose_both(signal: str, picture: str) -> tuple[ElmForCausalLM, ElmSignalVisionProcessor]:
    """`signal` is an encoder of signals, or a projector without one."""
    projector = signal if signal in ("linear", "patch", "conv") else "mlp"
    return compose(Composition(BOTH, SIGNAL_ENCODERS.get(signal), projector, VISION_ENCODERS[picture]), "qwen2", None)


def encoded(processor, messages: list[dict], **options) -> dict[str, torch.Tensor]:
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **options)


@pytest.fixture(scope="module")
def both() -> tuple[ElmForCausalLM, ElmSignalVisionProcessor]:
    return compose_both("ecg_resnet", "vit")


@pytest.mark.parametrize("signal, picture", PAIRS)
def test_the_tokens_are_those_of_a_signal_model_and_of_a_picture_model(signal, picture, ecgs):
    model, processor = compose_both(signal, picture)
    projector = signal if signal in ("linear", "patch", "conv") else "mlp"
    alone = [
        compose(Composition("signal", SIGNAL_ENCODERS.get(signal), projector), "qwen2", None),
        compose(Composition("image", VISION_ENCODERS[picture], "mlp"), "qwen2", None),
    ]
    inputs, expected = encoded(processor, conversation(ecgs[:2])), []
    for (one, its_processor), part in zip(alone, ("signal", "picture")):
        of_part = getattr(model.model.encoder, part)
        if of_part is not None:
            one.model.encoder.load_state_dict(of_part.state_dict())
        one.model.projector.load_state_dict(getattr(model.model.projector, part).state_dict())
        if part == "picture":
            one.model.projector.num_ecg_tokens = NUM_PICTURE_TOKENS
        read = its_processor(its_processor.ecg_token * 2, ecgs[:2], sampling_rate=250, return_tensors="pt")
        with torch.no_grad():
            expected.append(one.get_ecg_features(read["ecg_values"], read.get("ecg_lead_mask")).pooler_output)
    with torch.no_grad():
        output = model(**inputs)
    torch.testing.assert_close(output.ecg_hidden_states, torch.cat(expected, dim=1), rtol=1e-4, atol=1e-5)


def test_each_placeholder_gets_both_and_every_weight_learns(both, ecgs):
    model, processor = both
    inputs = encoded(processor, [conversation(ecgs[:1]), conversation(ecgs), conversation([])])
    assert (inputs["input_ids"] == processor.ecg_token_id).sum(dim=1).tolist() == [8, 24, 0]
    model.train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    unlearnt = [name for name, weight in model.named_parameters() if weight.grad is None and ".encoder." not in name]
    assert not unlearnt
    model.zero_grad()
    model.eval()
    with torch.no_grad():
        together = model(**inputs).logits
        for number, ecgs_of_one in enumerate((ecgs[:1], ecgs, [])):
            alone = model(**encoded(processor, conversation(ecgs_of_one))).logits[0]
            torch.testing.assert_close(together[number, : len(alone)], alone, rtol=1e-4, atol=1e-5)


def test_an_absent_modality_is_a_learned_vector_and_is_not_read(both, ecgs):
    model, processor = both
    inputs = encoded(processor, conversation(ecgs[:2]))
    inputs["ecg_modality_mask"] = torch.tensor([[True, False], [False, True]])
    with torch.no_grad():
        whole = model(**inputs | {"ecg_modality_mask": None}).ecg_hidden_states
        one_each = model(**inputs)
        signal, picture = one_each.ecg_hidden_states.split([NUM_TOKENS, NUM_PICTURE_TOKENS], dim=1)
        absent = model.model.projector.absent.weight
        assert torch.equal(signal[0], whole[0, :NUM_TOKENS]) and torch.equal(picture[1], whole[1, NUM_TOKENS:])
        assert (picture[0] == absent[1]).all() and (signal[1] == absent[0]).all()
        assert not torch.equal(absent[0], absent[1])
        other = {name: inputs[name].clone() for name in ("ecg_values", "ecg_pictures")}
        other["ecg_values"][1] += 1
        other["ecg_pictures"][0] += 1
        assert torch.equal(model(**inputs | other).logits, one_each.logits)
        other["ecg_values"][0] += 1
        assert not torch.allclose(model(**inputs | other).logits, one_each.logits, atol=1e-6)
        with pytest.raises(ValueError, match="neither signal nor picture in `ecg_modality_mask`"):
            model(**inputs | {"ecg_modality_mask": torch.tensor([[True, True], [False, False]])})


def test_items_give_signal_and_picture_separately(both, ecgs):
    model, processor = both
    question = {"type": "text", "text": "What is the rhythm?"}

    def asked(**ecg) -> dict[str, torch.Tensor]:
        return encoded(
            processor, [{"role": "user", "content": [{"type": "ecg", "sampling_rate": 250, **ecg}, question]}]
        )

    first, second = asked(ecg=ecgs[0]), asked(ecg=ecgs[1])
    mixed = asked(signal=ecgs[0], picture=ecgs[1])
    assert torch.equal(mixed["ecg_values"], first["ecg_values"])
    assert torch.equal(mixed["ecg_pictures"], second["ecg_pictures"])
    assert mixed["ecg_modality_mask"].tolist() == [[True, True]]
    signal_only, picture_only = asked(signal=ecgs[0]), asked(picture=ecgs[0])
    assert signal_only["ecg_modality_mask"].tolist() == [[True, False]]
    assert torch.equal(signal_only["ecg_values"], first["ecg_values"]) and not signal_only["ecg_pictures"].any()
    assert picture_only["ecg_modality_mask"].tolist() == [[False, True]]
    assert torch.equal(picture_only["ecg_pictures"], first["ecg_pictures"]) and not picture_only["ecg_values"].any()
    scan = np.full((32, 32, 3), 200, dtype=np.uint8)
    scan[10:20] = 0
    of_scan = asked(image=scan)
    assert of_scan["ecg_modality_mask"].tolist() == [[False, True]]
    pictures = processor.image_processor([EcgPicture(scan)], return_tensors="pt")["pixel_values"]
    assert torch.equal(of_scan["ecg_pictures"], pictures) and not of_scan["ecg_values"].any()
    with pytest.raises(ValueError, match='signal or "ecg", got both'):
        asked(ecg=ecgs[0], signal=ecgs[1])
    _, signal_processor = compose(Composition("signal", None, "patch"), "qwen2", None)
    item = {"type": "ecg", "signal": ecgs[0], "sampling_rate": 250}
    with pytest.raises(
        ValueError, match=r'"signal" or "picture", which are for models with .*; this model reads "ecg"'
    ):
        encoded(signal_processor, [{"role": "user", "content": [item, question]}])


def test_a_batch_of_both_and_of_single_modalities_keeps_their_order_and_leads(both, ecgs):
    _, processor = both
    named = dict(zip(LEADS, ecgs[2]))
    leads = ["V1", "II", "I", "V5", "aVR"]
    few = np.stack([named[lead] for lead in leads])
    items = [
        {"picture": ecgs[0], "sampling_rate": 250},
        {"ecg": few, "sampling_rate": 250, "lead_names": leads},
        {"signal": ecgs[1], "sampling_rate": 250},
    ]
    read = encoded(processor, [{"role": "user", "content": [{"type": "ecg", **item} for item in items]}])
    assert read["ecg_modality_mask"].tolist() == [[False, True], [True, True], [True, False]]
    names = [list(LEADS), leads, list(LEADS)]
    ecgs_of = [ecgs[0], few, ecgs[1]]
    signals = processor.feature_extractor(ecgs_of, 250, names, return_tensors="pt")
    pictures = processor.image_processor(ecgs_of, 250, names, return_tensors="pt")["pixel_values"]
    assert torch.equal(read["ecg_values"][1:], signals["ecg_values"][1:])
    assert torch.equal(read["ecg_lead_mask"][1:], signals["ecg_lead_mask"][1:])
    assert [lead for lead, there in zip(LEADS, read["ecg_lead_mask"][1]) if there] == sorted(leads, key=LEADS.index)
    assert torch.equal(read["ecg_pictures"][:2], pictures[:2])


def test_generation_keeps_both_with_their_conversation(both, ecgs):
    model, processor = both
    prompts = [conversation(ecgs[:1])[:1], conversation(ecgs[1:])[:1]]
    inputs = encoded(processor, prompts, add_generation_prompt=True)
    inputs["ecg_modality_mask"][0, 1] = False
    settings = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    together = model.generate(**inputs, **settings)
    alone = encoded(processor, prompts[:1], add_generation_prompt=True)
    alone["ecg_modality_mask"][0, 1] = False
    output = model.generate(**alone, **settings)
    assert torch.equal(together[0, inputs["input_ids"].shape[1] :], output[0, alone["input_ids"].shape[1] :])
    # Answers from a shared prefix, in which each ECG is computed once.
    shared = answer(model, processor, [prompts[1], prompts[1], prompts[0]], 4)
    assert shared == [answer(model, processor, [prompt], 4)[0] for prompt in (prompts[1], prompts[1], prompts[0])]


def test_packs_have_the_loss_of_single_conversations(both, ecgs):
    model, processor = both
    collate = ElmDataCollator(processor, modality_dropout=0.7)
    rows = [row(*question, ecgs[:2]) | {"conversation_id": "a"} for question in QUESTIONS[:3]]
    packed = collate([{"conversations": rows}])
    assert packed["ecg_pictures"].shape == (2, 3, 32, 32) and packed["ecg_modality_mask"].shape == (2, 2)
    assert not packed["ecg_modality_mask"].all()
    assert_same(model, [packed], [collate([one]) for one in rows])


@pytest.mark.parametrize("signal", ["ecg_resnet", "patch"])
def test_pairs_that_read_each_ecg_once_have_the_tokens_of_separate_rows(signal, ecgs):
    model, processor = compose_both(signal, "vit")
    inputs = encoded(processor, [conversation(ecgs[:2]), conversation(ecgs[:2])])
    inputs["ecg_modality_mask"] = torch.tensor([[True, False], [True, True]] * 2)
    with torch.no_grad():
        expected = model.model(**inputs).last_hidden_state
        once = {name: values[:2] if name.startswith("ecg_") else values for name, values in inputs.items()}
        SharedPrompts(model.model)
        found = model.model(**once, ecg_order=torch.tensor([0, 1, 0, 1])).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_dropout_drops_either_and_never_both(both, ecgs):
    _, processor = both
    rows = [row(*QUESTIONS[0], ecgs[:2]) | {"conversation_id": str(number)} for number in range(100)]

    def kept(rate: float, epoch: int = 0) -> torch.Tensor:
        collate = ElmDataCollator(processor, modality_dropout=rate, seed=1)
        collate.epoch = epoch
        return collate._kept_modalities(rows, [one["conversation_id"] for one in rows])

    always = kept(1.0)
    assert (always.sum(dim=1) == 1).all() and 60 < always[:, 0].sum() < 140
    some = kept(0.3)
    assert some.any(dim=1).all() and 30 < (~some.all(dim=1)).sum() < 90
    assert torch.equal(some, kept(0.3)) and not torch.equal(some, kept(0.3, epoch=1))
    assert ElmDataCollator(processor)(rows[:2])["ecg_modality_mask"].all()


VIT, RESNET = VISION_ENCODERS["vit"], ECG_ENCODERS["ecg_resnet"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"encoder_config": RESNET}, r'picture_encoder_config: representation="image" does not fit no encoder'),
        ({"picture_encoder_config": RESNET}, r'picture_encoder_config: .*"image" does not fit a "ecg_resnet" encoder'),
        ({"encoder_config": VIT, "picture_encoder_config": VIT}, r'encoder_config .*"signal" does not fit a "vit"'),
        ({"picture_encoder_config": VIT, "picture_projector_type": "patch"}, "does not fit a vit encoder"),
        ({"picture_encoder_config": VIT, "num_ecg_tokens": 101}, "cannot be cut into num_ecg_tokens=51 equal patches"),
        ({"picture_encoder_config": VIT, "num_picture_tokens": 50}, "signal and picture need at least one token each"),
        ({"representation": "image", "picture_encoder_config": VIT}, "'image' does not fit picture_encoder_config"),
        ({"representation": ["image", "signal"]}, r"\['image', 'signal'\] does not fit any model"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        ElmConfig(**{"representation": BOTH} | settings)


def test_inputs_of_another_form_are_refused(both, ecgs):
    model, processor = both
    inputs = encoded(processor, conversation(ecgs[:2]))
    with pytest.raises(ValueError, match="got `ecg_values` without `ecg_pictures`"):
        model(**inputs | {"ecg_pictures": None})
    with pytest.raises(ValueError, match=r"2 signals \(`ecg_values`\) for 1 pictures"):
        model(**inputs | {"ecg_pictures": inputs["ecg_pictures"][:1]})
    with pytest.raises(ValueError, match=r"shape \(num_ecgs, 2\) = \(2, 2\), got \(2,\)"):
        model(**inputs | {"ecg_modality_mask": torch.ones(2, dtype=torch.bool)})
    signal_model, _ = compose(Composition("signal", None, "patch"), "qwen2", None)
    with pytest.raises(ValueError, match=r'reads `ecg_values` alone \(representation="signal"\); drop `ecg_pictures`'):
        signal_model.get_ecg_features(inputs["ecg_values"], ecg_pictures=inputs["ecg_pictures"])


@pytest.fixture(scope="module")
def vision_tower(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**size, image_size=48, patch_size=16)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def create(simulated_dataset, vision_tower, tmp_path_factory):
    def create(**parts) -> Path:
        folder = tmp_path_factory.mktemp("both")
        settings = {"text_config": TINY_LLM}
        if "encoder" not in parts:
            settings["encoder_config"] = ECG_ENCODERS["ecg_resnet"] | {"num_leads": 12}
        (folder / "elm.json").write_text(json.dumps(settings))
        options = {"representation": BOTH, "picture_encoder": str(vision_tower), "seconds": 2}
        data = {"tokenizer_dataset": str(simulated_dataset), "vocab_size": 400}
        create_elm(folder / "elm", config=folder / "elm.json", **data, **options | parts)
        return folder / "elm"

    return create


@pytest.fixture(scope="module")
def elm(create) -> Path:
    return create(num_ecg_tokens=8)


def test_created_models_have_the_lengths_and_tokens_of_their_parts(create, elm):
    model, processor = load_checkpoint(elm)
    assert model.config.representation == BOTH and model.config.num_picture_tokens == 4
    assert processor.image_processor.size == {"height": 48, "width": 48}
    assert processor.image_processor.num_samples == processor.feature_extractor.num_samples == 500
    assert parts_of(model.config)["encoder"] == "ecg_resnet and clip_vision_model"
    large, processor = load_checkpoint(create(encoder="ecg_se_resnet", picture_size=96, paper={"layout": "6x2"}))
    assert (large.config.num_ecg_tokens, large.config.num_picture_tokens, large.config.picture_size) == (100, 50, 96)
    assert processor.feature_extractor.sampling_rate == 100 and processor.feature_extractor.num_samples == 200
    assert processor.image_processor.layout == "6x2"
    assert processor.image_processor.sampling_rate == 250 and processor.image_processor.num_samples == 500
    linear, processor = load_checkpoint(
        create(encoder=None, projector="linear", num_picture_tokens=4, leads=["I", "II"])
    )
    assert (linear.config.num_ecg_tokens, linear.config.num_picture_tokens, linear.config.num_leads) == (5, 4, 2)
    assert processor.leads == ["I", "II"] and processor.image_processor.leads == list(LEADS)


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"picture_encoder": None}, "--picture-encoder and --representation signal,image must be used together"),
        ({"representation": "signal"}, "--picture-encoder and --representation signal,image must be used together"),
        ({"representation": ["image", "signal"]}, "models that read the signal and its picture have representation="),
        ({"picture_encoder": "ecg_resnet"}, '"image" does not fit a "ecg_resnet" encoder'),
        ({"picture_size": 100}, "--picture-size 100: expected a multiple of the encoder's patch size, 16"),
    ],
)
def test_create_refuses_wrong_pairs(create, parts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        create(**parts)


def test_training_changes_both_towers_and_what_stands_for_an_absent_one(elm, simulated_dataset, tmp_path):
    changes = ("--modality_dropout", "0.5", "--noise", "0.1", "--rotation", "2", "--max_steps", "4")
    names = changed_weights(elm, train(elm, simulated_dataset, tmp_path / "out", *changes))
    for part in (
        "encoder.signal.",
        "encoder.picture.",
        "projector.signal.",
        "projector.picture.",
        "projector.absent.",
    ):
        assert any(name.startswith(f"model.{part}") for name in names), part
    with pytest.raises(ValueError, match="--modality_dropout is 1.5; expected a probability"):
        train(elm, simulated_dataset, tmp_path, "--modality_dropout", "1.5")


def test_dropout_needs_two_modalities(tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match=r'--modality_dropout 0.5 drops .* reads one representation \("signal"\)'):
        train(tiny_elm, simulated_dataset, tmp_path, "--modality_dropout", "0.5")


def test_cached_features_and_adapters(elm, create, simulated_dataset, tmp_path):
    model, processor = load_checkpoint(elm)
    features = cache_encoders_of([str(simulated_dataset)], model, processor)
    rows = [load_elm_dataset(simulated_dataset)[index] for index in range(6)]
    running = ElmDataCollator(processor, modality_dropout=0.5)(rows)
    read = ElmDataCollator(processor, encoder_features=features, modality_dropout=0.5)(rows)
    assert "ecg_values" not in read and "ecg_pictures" not in read
    with torch.no_grad():
        torch.testing.assert_close(model(**read).logits, model(**running).logits, rtol=1e-4, atol=1e-5)
    flags = ("--use_peft", "--trainable", "projector", "llm", "--cache_encoder", "--pack_by_ecg", "2")
    adapter = train(
        elm, simulated_dataset, tmp_path / "adapter", *flags, "--modality_dropout", "0.5", "--max_steps", "4"
    )
    adapted, _ = load_checkpoint(adapter)
    merged = merge_adapter(adapter, tmp_path / "merged")
    before = load_file(elm / "model.safetensors")
    assert not torch.equal(merged.model.projector.absent.weight, before["model.projector.absent.weight"])
    torch.testing.assert_close(
        some_logits(merged.eval(), processor, simulated_dataset),
        some_logits(adapted, processor, simulated_dataset),
        rtol=1e-4,
        atol=1e-5,
    )
    with_patches = load_checkpoint(create(encoder=None, num_ecg_tokens=8))
    with pytest.raises(ValueError, match="--cache_encoder keeps .* this model reads the signal without an encoder"):
        cache_encoders_of([str(simulated_dataset)], *with_patches)


def test_an_index_compares_signals(elm, simulated_dataset):
    model, processor = load_checkpoint(elm)
    ecgs = [load_elm_dataset(simulated_dataset)[index]["ecgs"][0] for index in range(3)]
    signals = processor.feature_extractor(ecgs, 250, return_tensors="pt")
    with torch.no_grad():
        tokens = model.model.encoder.signal(**signals).last_hidden_state
    pooled = F.adaptive_avg_pool1d(tokens.transpose(1, 2), 4).mean(dim=2)
    np.testing.assert_allclose(EncoderVectors(elm)(ecgs, 250), F.normalize(pooled, dim=-1), atol=1e-5)


def test_controls_replace_one_modality(simulated_dataset):
    rows = load_elm_dataset(simulated_dataset, split="test")
    ablation = SignalAblation(rows, ("ecg", *MODALITY_CONDITIONS))
    own, (donor,) = rows[0]["ecgs"][0], ablation.ecgs(0, "shuffled", 1)
    assert not np.array_equal(own, donor)
    expected = {
        "picture_only": (None, own),
        "signal_only": (own, None),
        "other_signal": (donor, own),
        "other_picture": (own, donor),
    }
    names = set()
    for condition, parts in expected.items():
        (given,) = ablation.ecgs(0, condition, 1)
        names |= set(ablation.names(0, condition, 1))
        for found, part in zip((given.signal, given.picture), parts):
            assert (found is None) == (part is None) and (part is None or np.array_equal(found, part))
        assert ablation.ecgs(0, condition, 0) == [] and ablation.names(0, condition, 0) == ()
    assert len(names) == 4


def test_an_evaluation_asks_with_either_modality(elm, tiny_elm, simulated_dataset, tmp_path):
    report = evaluate(
        elm, simulated_dataset, output=tmp_path / "report", limit=4, max_new_tokens=2, num_occlusions=1, quiet=True
    )
    assert {*CONDITIONS, *MODALITY_CONDITIONS} <= set(report["conditions"])
    assert {name for found in report["modality_reliance"].values() for name in found} == set(MODALITY_CONDITIONS)
    assert "Does it need the picture?" in (tmp_path / "report" / "report.md").read_text()
    assert not set(MODALITY_CONDITIONS) & set(report["signal_reliance"]["short"].get("scores", {}))
    with pytest.raises(
        ValueError, match='condition "signal_only" is for models that read the signal of an ECG and its .* does not'
    ):
        evaluate(tiny_elm, simulated_dataset, conditions=("ecg", "signal_only"), quiet=True)


def test_the_report_tells_what_is_read_from_what_is_needed():
    """A model that answers from the picture, and repeats it in the signal's tokens: it reads the picture alone."""
    shares = {"ecg": 0.95, "picture_only": 0.95, "other_signal": 0.95, "signal_only": 0.9, "other_picture": 0.5}
    predictions = predictions_of(shares | dict.fromkeys(CONTROLS, 0.5), num_patients=80)
    report = build_report(Questions(predictions), {}, None, 0)
    found = report["modality_reliance"]["short"]
    assert {name: entry["reads_ecg"] for name, entry in found.items()} == {
        "picture_only": False,
        "other_signal": False,
        "signal_only": False,
        "other_picture": True,
    }
    right = predictions["prediction"] == predictions["messages_answer"]
    share = right.groupby(predictions["condition"]).mean()
    assert found["other_picture"]["score"] == pytest.approx(share["ecg"] - share["other_picture"])
    assert report["signal_reliance"]["short"]["reads_ecg"] is True
    assert report["signal_reliance"]["short"]["scores"].keys() == {"ecg", *CONTROLS}
    text = report_markdown(report | {"figures": {}, "examples": []})
    line = next(line for line in text.splitlines() if "Does it read the picture?" in line)
    assert line.endswith("| yes |")
