"""Models that read measured values of an ECG: a token for each, measured on what is in the place of the ECG."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LLM
from huggingface_hub.errors import StrictDataclassClassValidationError
from test_compositions import ECG_ENCODERS
from test_training import changed_weights, train
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.measurements import scaled_measurements
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import FEATURES, measure_ecg
from elm_hf.scoring.names import CONDITIONS, MEASUREMENT_CONDITIONS, PART_CONDITIONS
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.encoder_cache import cache_encoders_of


NAMES = ["heart_rate", "pr_ms", "qrs_ms", "axis_deg", *(f"st_mv_{lead}" for lead in LEADS)]


@pytest.fixture(scope="module")
def create(simulated_dataset, tmp_path_factory):
    def create(**parts) -> Path:
        folder = tmp_path_factory.mktemp("measuring")
        settings = {"text_config": TINY_LLM, "encoder_config": ECG_ENCODERS["ecg_resnet"] | {"num_leads": 12}}
        (folder / "elm.json").write_text(json.dumps(settings))
        names = ["heart_rate", "pr_ms", "qrs_ms", "axis_deg", "st_mv"]
        data = {"tokenizer_dataset": str(simulated_dataset), "vocab_size": 400}
        create_elm(folder / "elm", config=folder / "elm.json", seconds=2, **data, **{"measurements": names} | parts)
        return folder / "elm"

    return create


@pytest.fixture(scope="module")
def elm(create) -> Path:
    return create(num_ecg_tokens=20)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**size, image_size=48, patch_size=16)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def elm_of_both(create, clip) -> Path:
    return create(representation=["signal", "image"], picture_encoder=clip, measurements=["general"])


@pytest.fixture(scope="module")
def rows(simulated_dataset) -> list[dict]:
    dataset = load_elm_dataset(simulated_dataset, split="test")
    return [dataset[index] for index in range(4)]


def encoded(processor, row: dict, ecgs: list, **options) -> dict[str, torch.Tensor]:
    messages = fill_ecgs(row["messages"], ecgs, row["sampling_rate"], **options)
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")


def measured(ecg: np.ndarray, names: list[str]) -> torch.Tensor:
    found = measure_ecg(ecg, 250)
    return torch.tensor([[found[name] for name in names]], dtype=torch.float32)


def test_values_are_tokens_behind_those_of_the_ecg(elm, rows):
    model, processor = load_checkpoint(elm)
    assert model.config.measurements == processor.measurements == NAMES
    inputs = encoded(processor, rows[0], rows[0]["ecgs"])
    assert (inputs["input_ids"] == processor.ecg_token_id).sum() == 20
    expected = measured(rows[0]["ecgs"][0], NAMES)
    assert expected.isfinite().sum() > 10
    torch.testing.assert_close(inputs["ecg_measurements"], expected, equal_nan=True)
    values = torch.tensor([[75.0, torch.nan, 135.0, -90.0, *[0.2] * 12]])
    with torch.no_grad():
        tokens = model(**inputs | {"ecg_measurements": values}).ecg_hidden_states[0]
        other = model(**inputs | {"ecg_measurements": values + 1}).ecg_hidden_states[0]
    # Typical values and spreads are 75 and 25 beats per minute, 95 and 20 ms, 0 and 0.1 mV; angles are on a circle.
    numbers = torch.tensor([[0, 0], [0, 0], [2, 0], [0, -1], *[[2.0, 0]] * 12])
    part = model.model.projector.measurements
    with torch.no_grad():
        hidden = numbers @ part.number.weight.T + part.number.bias
        hidden[1] = part.unknown.weight[1]
        hand = F.gelu(hidden + part.name.weight) @ part.linear.weight.T + part.linear.bias
    torch.testing.assert_close(tokens[4:], hand, rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens[:4], other[:4])
    assert torch.equal(tokens[5], other[5]) and not torch.isclose(tokens[4], other[4]).all()


def test_a_new_token_is_as_long_as_those_of_text_and_as_much_of_its_number_as_of_its_name(elm):
    model, _ = load_checkpoint(elm)
    part = model.model.projector.measurements
    typical, spread = torch.tensor(part.scales).T
    with torch.no_grad():
        low, high = part(torch.stack([typical - spread, typical + spread]))
    ratio = low.square().mean().sqrt() / model.config.text_config.initializer_range
    assert 0.4 < ratio < 1.5
    change = (high - low).norm(dim=-1) / low.norm(dim=-1)
    assert change.median() > 0.6


def test_an_outlier_counts_as_five_spreads(elm, rows):
    model, processor = load_checkpoint(elm)
    part = model.model.projector.measurements
    values = measured(rows[0]["ecgs"][0], NAMES).nan_to_num(0.0)
    with torch.no_grad():
        values[0, 0] = 75 + 5 * 25
        largest = part(values)
        values[0, 0] = 10_000
        assert torch.equal(part(values), largest)


def test_values_are_those_of_what_is_in_the_place_of_the_ecg(elm_of_both, simulated_dataset):
    """Nothing of the true ECG is left under a control."""
    _, processor = load_checkpoint(elm_of_both)
    names = processor.measurements
    dataset = load_elm_dataset(simulated_dataset, split="test")
    ablation = SignalAblation(dataset, ("ecg", "zeros", "noise", "shuffled", *PART_CONDITIONS))
    row, own, (donor,) = dataset[0], dataset[0]["ecgs"][0], ablation.ecgs(0, "shuffled", 1)
    found = {
        name: encoded(processor, row, ablation.ecgs(0, name, 1), keep_flat=name == "zeros")["ecg_measurements"]
        for name in ("ecg", "zeros", "noise", "shuffled", *PART_CONDITIONS)
    }
    of_own, of_donor = measured(own, names), measured(donor, names)
    assert not torch.allclose(of_own, of_donor, equal_nan=True)
    for name in ("ecg", "signal_only", "other_picture", "measurements_only"):
        torch.testing.assert_close(found[name], of_own, equal_nan=True)
    for name in ("shuffled", "other_signal", "other_measurements"):
        torch.testing.assert_close(found[name], of_donor, equal_nan=True)
    for name in ("zeros", "picture_only", "no_measurements"):
        assert found[name].isnan().all(), name
    torch.testing.assert_close(found["noise"], measured(ablation.ecgs(0, "noise", 1)[0], names), equal_nan=True)


def test_reports_say_whether_the_ecg_or_its_values_are_read(elm, tiny_elm, simulated_dataset, tmp_path, monkeypatch):
    _, processor = load_checkpoint(elm)
    rows = load_elm_dataset(simulated_dataset, split="test")
    ablation = SignalAblation(rows, ("ecg", "shuffled", *MEASUREMENT_CONDITIONS))
    whole, other = (encoded(processor, rows[0], ablation.ecgs(0, name, 1)) for name in ("ecg", "shuffled"))
    for name, expected in (("other_measurements", whole), ("measurements_only", other)):
        inputs = encoded(processor, rows[0], ablation.ecgs(0, name, 1))
        assert torch.equal(inputs["ecg_values"], expected["ecg_values"])
    report = evaluate(elm, simulated_dataset, 1, output=tmp_path, limit=8, quiet=True)
    assert {*CONDITIONS, *MEASUREMENT_CONDITIONS} <= set(report["conditions"])
    assert set(report["modality_reliance"]["short"]) == set(MEASUREMENT_CONDITIONS)
    assert not set(MEASUREMENT_CONDITIONS) & set(report["signal_reliance"]["short"].get("scores", {}))
    text = (tmp_path / "report.md").read_text()
    assert "## ECG and measured values" in text and "| Does it read the measured values? | another patient's" in text
    with pytest.raises(
        ValueError, match="is for models that read the signal of an ECG and its picture; .*elm does not"
    ):
        evaluate(elm, simulated_dataset, 1, conditions=["ecg", "other_picture"])
    with pytest.raises(ValueError, match='"no_measurements" is for models that read measured values; .* does not'):
        evaluate(tiny_elm, simulated_dataset, 1, conditions=["ecg", "no_measurements"])
    item = {"type": "ecg", "ecg": rows[0]["ecgs"][0], "sampling_rate": 250, "measured_ecg": None}
    with pytest.raises(ValueError, match="this model reads no measured values"):
        load_checkpoint(tiny_elm)[1].apply_chat_template([{"role": "user", "content": [item]}], tokenize=True)


def test_degraded_pictures_have_no_parts_to_exchange(clip, simulated_dataset, tmp_path):
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM}))
    options = {"tokenizer_dataset": str(simulated_dataset), "vocab_size": 400, "measurements": ["heart_rate"]}
    create_elm(
        tmp_path / "elm", config=tmp_path / "elm.json", representation="image", encoder=clip, seconds=2, **options
    )
    report = evaluate(
        tmp_path / "elm", simulated_dataset, 1, limit=8, output=tmp_path / "out", picture_degradation=True
    )
    assert set(MEASUREMENT_CONDITIONS) <= set(report["conditions"])
    assert len(report["picture_degradation"]) > 1


def test_a_missing_lead_leaves_its_values_unknown(elm, rows):
    _, processor = load_checkpoint(elm)
    leads = [lead for lead in LEADS if lead != "V2"]
    ecg = np.delete(rows[0]["ecgs"][0], LEADS.index("V2"), axis=0)
    item = {"type": "ecg", "ecg": ecg, "sampling_rate": 250, "lead_names": leads}
    values = processor.apply_chat_template([{"role": "user", "content": [item]}], tokenize=True, return_dict=True)
    unknown = [name for name, value in zip(NAMES, values["ecg_measurements"][0]) if np.isnan(value)]
    whole = measured(rows[0]["ecgs"][0], NAMES)[0]
    assert unknown == [name for name, value in zip(NAMES, whole) if value.isnan() or name == "st_mv_V2"]


def test_a_scan_has_no_values(elm_of_both):
    _, processor = load_checkpoint(elm_of_both)
    item = {"type": "ecg", "image": np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)}
    read = processor.apply_chat_template([{"role": "user", "content": [item]}], tokenize=True, return_dict=True)
    assert np.isnan(read["ecg_measurements"]).all() and read["ecg_modality_mask"].tolist() == [[False, True]]


def test_a_dropped_signal_takes_its_values_along(elm_of_both, rows):
    model, processor = load_checkpoint(elm_of_both)
    assert (model.config.num_ecg_tokens, model.config.num_picture_tokens) == (117, 50)
    batch = ElmDataCollator(processor, modality_dropout=1.0)(
        [row | {"conversation_id": f"{n}"} for n, row in enumerate(rows)]
    )
    has_signal = batch["ecg_modality_mask"][:, 0]
    assert 0 < has_signal.sum() < 4
    assert torch.equal(batch["ecg_measurements"].isnan().all(dim=1), ~has_signal)
    with torch.no_grad():
        assert model(**batch).loss.isfinite()


def test_training_learns_them_and_the_cache_keeps_them(elm, simulated_dataset, rows, tmp_path, monkeypatch):
    flags = ("--trainable", "projector", "llm", "--cache_encoder", "--max_steps", "4")
    names = changed_weights(elm, train(elm, simulated_dataset, tmp_path / "out", *flags))
    for part in ("name.weight", "unknown.weight", "number.weight", "linear.weight"):
        assert f"model.projector.measurements.{part}" in names
    model, processor = load_checkpoint(elm)
    features = cache_encoders_of([str(simulated_dataset)], model, processor)
    running = ElmDataCollator(processor)(rows)
    monkeypatch.setattr(processor, "measured", None)  # nothing is measured again
    read = ElmDataCollator(processor, encoder_features=features)(rows)
    assert "ecg_values" not in read
    torch.testing.assert_close(read["ecg_measurements"], running["ecg_measurements"], equal_nan=True)
    with torch.no_grad():
        torch.testing.assert_close(model(**read).logits, model(**running).logits, rtol=1e-4, atol=1e-5)


def test_only_checkpoints_that_measure_carry_the_code(elm, tiny_elm):
    code = {"ecg_measurements.py", "ecg_delineation.py"}
    for folder, expected, line in (
        (elm, code, "from .ecg_measurements import measure_ecg as MEASURE\n"),
        (tiny_elm, set(), "MEASURE = None\n"),
    ):
        assert code & {path.name for path in folder.glob("*.py")} == expected
        assert (folder / "own_measurements.py").read_text().endswith(line)


def test_every_value_can_be_chosen():
    every = scaled_measurements(["general", "q_ms", "q_mv", "r_ms", "r_mv", "s_mv", "st_mv", "t_mv", "p_mv", "noise"])
    assert scaled_measurements(["all"]) == every
    assert tuple(every["measurements"]) == FEATURES and len(every["measurement_scales"]) == len(FEATURES)
    with pytest.raises(ValueError, match="--measurements: there is no qt; there are all, general, heart_rate"):
        scaled_measurements(["qt"])
    with pytest.raises(ValueError, match="--measurements names a value twice: general, qrs_ms"):
        scaled_measurements(["general", "qrs_ms"])


def test_wrong_settings_and_inputs_are_refused(create, elm, tiny_elm, rows):
    of_rate = {"measurements": ["heart_rate"], "measurement_scales": [[75.0, 25.0]]}
    for settings, message in (
        ({"num_ecg_tokens": 1}, "1 measurements have a token each of num_ecg_tokens=1, and at least one is for"),
        ({"measurement_scales": [[75.0, 0.0]]}, "expected a typical value and a spread above 0"),
        ({"num_ecg_tokens": 50}, "cannot be cut into num_ecg_tokens=49 equal patches"),
    ):
        with pytest.raises(StrictDataclassClassValidationError, match=message):
            ElmConfig(**of_rate | settings)
    with pytest.raises(ValueError, match="--measurements are tokens of an ECG, and --representation symbol"):
        create(representation="symbol", ecg_tokenizer="none")
    model, processor = load_checkpoint(elm)
    inputs = encoded(processor, rows[0], rows[0]["ecgs"])
    with pytest.raises(ValueError, match=r"`ecg_measurements` of shape \(1, 16\), and none were given"):
        model(**inputs | {"ecg_measurements": None})
    with pytest.raises(ValueError, match=r"a tensor of shape \(1, 3\) was given"):
        model(**inputs | {"ecg_measurements": torch.zeros(1, 3)})
    other, other_processor = load_checkpoint(tiny_elm)
    read = encoded(other_processor, rows[0], rows[0]["ecgs"])
    with pytest.raises(ValueError, match="reads no measured values, and a tensor .* drop `ecg_measurements`"):
        other(**read, ecg_measurements=torch.zeros(1, 3))
