"""ECG-JEPA: parity with the formulas, subsets of the leads, published files, preprocessing."""

import json
import math

import numpy as np
import pytest
import scipy.signal
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from reference_encoders import relative_error
from reference_foundation_encoders import JEPA_TINY, jepa, jepa_weights, noise
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.modeling.configuration_ecg_jepa import EcgJepaConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from elm_hf.modeling.modeling_ecg_jepa import EcgJepaForSequenceClassification, EcgJepaModel


ALL = list(range(8))
SAMPLES = JEPA_TINY["patches"] * JEPA_TINY["patch"]


def published(folder, sizes=JEPA_TINY, change=None):
    """A file in the format of the published ones."""
    weights = jepa_weights(sizes)
    if change is not None:
        change(weights)
    torch.save({"encoder": weights, "epoch": 99}, folder / "file.pth")
    return folder / "file.pth"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folder of a converted checkpoint, and the published weights."""
    folder = tmp_path_factory.mktemp("ecg_jepa")
    convert_checkpoint("ecg_jepa", published(folder), folder / "out")
    return folder / "out", jepa_weights(JEPA_TINY)


def test_parameters_of_the_published_model():
    with torch.device("meta"):
        model = EcgJepaModel(EcgJepaConfig())
    weights = model.state_dict()
    assert len(weights) == 137
    assert sum(weight.numel() for weight in weights.values()) == 85_374_720
    assert model.num_parameters() == 85_067_520  # without the table of positions, which is fixed


@pytest.mark.parametrize("samples", [SAMPLES, 40])  # 40: the first columns of the table
def test_the_encoder_agrees_with_the_formulas(samples, converted):
    folder, weights = converted
    model, ecg = AutoModel.from_pretrained(folder), noise(2, 8, samples)
    with torch.no_grad():
        outputs = model(ecg)
    tokens = jepa(weights, ecg, JEPA_TINY, ALL)
    assert outputs.last_hidden_state.shape == (2, 8 * samples // 10, 96)
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(outputs.pooler_output, tokens.mean(1)) < 1e-5


def test_absent_leads_are_not_there(converted):
    folder, weights = converted
    model, ecg = AutoModel.from_pretrained(folder), noise(3, 8, SAMPLES)
    present = [ALL, [0, 1, 3], [1]]
    mask = torch.tensor([[lead in leads for lead in ALL] for leads in present])
    with torch.no_grad():
        outputs = model(ecg.masked_fill(~mask[..., None], float("nan")), ecg_lead_mask=mask)
    for index, leads in enumerate(present):
        tokens = jepa(weights, ecg[index : index + 1, leads], JEPA_TINY, leads)
        per_lead = outputs.last_hidden_state[index].unflatten(0, (8, -1))
        assert relative_error(per_lead[leads].flatten(0, 1)[None], tokens) < 1e-5
        assert not per_lead[[lead for lead in ALL if lead not in leads]].any()
        assert relative_error(outputs.pooler_output[index][None], tokens.mean(1)) < 1e-5


def test_the_table_of_a_new_model_codes_time_and_lead():
    model = EcgJepaModel(EcgJepaConfig(hidden_size=96, num_attention_heads=2, num_hidden_layers=1))
    row = model.position_embeddings[3, 7].double()  # the fourth lead, V2, and the eighth patch
    waves = [10_000 ** (-i / 24) for i in range(24)]
    expected = [f(t * w) for t in (7, 3) for f in (math.sin, math.cos) for w in waves]
    assert relative_error(row, torch.tensor(expected, dtype=torch.float64)) < 1e-6


def test_all_sizes_follow_from_the_file(converted):
    config = json.loads((converted[0] / "config.json").read_text())
    expected = {"num_leads": 8, "num_samples": 60, "patch_size": 10, "hidden_size": 96, "num_hidden_layers": 3}
    expected |= {"num_attention_heads": 2, "intermediate_size": 56, "license": "mit"}
    expected |= {"pretraining_data": ["csn", "code15"]}
    assert {name: config[name] for name in expected} == expected
    card = (converted[0] / "README.md").read_text()
    for words in ("license: mit", "arXiv:2410.08559", "leads I, II, V1, V2, V3, V4, V5, V6; 60 samples at 250 Hz"):
        assert words in card, words


def without(weights, text):
    for name in [name for name in weights if text in name]:
        del weights[name]


BAD_FILES = {
    "another model": (lambda weights: without(weights, "W_P"), "not a checkpoint of ecg_jepa: it lacks W_P.weight"),
    "missing": (
        lambda weights: without(weights, "1.mlp.fc2.bias"),
        r"1 missing: encoder_blocks.blocks.1.mlp.fc2.bias",
    ),
    "unknown": (lambda weights: weights.update({"cls_token": torch.zeros(2)}), "1 unknown: cls_token"),
    "table": (lambda weights: weights.update(pos_embed=torch.zeros(50, 96)), "50 rows .* multiples of 8 leads"),
    "heads": (lambda weights: weights.update({"W_P.weight": torch.zeros(64, 10)}), "width of 64; .*multiples .* 48"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_other_files_are_refused(case, tmp_path):
    change, message = BAD_FILES[case]
    with pytest.raises(ValueError, match=f"file.pth: .*{message}"):
        convert_checkpoint("ecg_jepa", published(tmp_path, change=change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_preprocessing(tmp_path, shared_data):
    EcgJepaFeatureExtractor().save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    path = shared_data / "ptb_xl" / "records500" / "06000" / "06000_hr"
    ecg = np.fromfile(f"{path}.dat", dtype="<i2").reshape(-1, 12).T / 1000
    rows = [0, 1, 6, 7, 8, 9, 10, 11]
    inputs = extractor(str(path))
    assert inputs["ecg_values"].shape == (1, 8, 2500) and inputs["ecg_lead_mask"].all()
    np.testing.assert_allclose(inputs["ecg_values"][0], scipy.signal.resample(ecg[rows], 2500, axis=1), atol=1e-6)
    # Leads by name, absent leads, and more than 10 s, which are cut before they are resampled.
    longer = np.concatenate([ecg, ecg[:, ::-1]], axis=1)
    longer[7] = np.nan
    inputs = extractor(longer[::-1], sampling_rate=500, lead_names=LEADS[::-1])
    expected = scipy.signal.resample(ecg[rows], 2500, axis=1)
    expected[3] = 0  # V2
    np.testing.assert_allclose(inputs["ecg_values"][0], expected, atol=1e-6)
    assert np.flatnonzero(~inputs["ecg_lead_mask"][0]).tolist() == [3]
    # Other rates reach 500 Hz first.
    slow = ecg[:, ::5]  # 100 Hz
    first = scipy.signal.resample(scipy.signal.resample(slow[rows], 5000, axis=1), 2500, axis=1)
    inputs = extractor(slow, sampling_rate=100, lead_names=list(LEADS))
    np.testing.assert_allclose(inputs["ecg_values"][0], first, atol=1e-6)
    with pytest.raises(ValueError, match="8 s long, the model reads 10 s"):
        extractor(ecg[:, :4000], sampling_rate=500, lead_names=list(LEADS))


def test_hidden_states_attentions_and_gradient_checkpointing(converted):
    model = EcgJepaForSequenceClassification(EcgJepaConfig.from_pretrained(converted[0], num_labels=3))
    ecg, labels, gradients = noise(2, 8, SAMPLES), torch.tensor([0, 2]), []
    for is_checkpointed in (False, True):
        model.train().zero_grad()
        if is_checkpointed:
            model.activation_checkpointing_enable()
        model(ecg, labels=labels).loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name
    with torch.no_grad():
        outputs = model.eval()(ecg, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(2, 8, 6, 96)] * 4
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 2, 8, 6, 14)] * 3
    assert torch.allclose(outputs.attentions[0].sum(-1), torch.ones(2, 2, 8, 6))


def test_new_weights_follow_the_paper():
    torch.manual_seed(0)
    config = EcgJepaConfig(hidden_size=192, num_attention_heads=4, num_hidden_layers=4, intermediate_size=384)
    model = EcgJepaForSequenceClassification(config)
    layers = model.ecg_jepa.layers
    expected = {layers[3].attention.qkv_proj: 0.02, layers[3].mlp.up_proj: 0.02, model.classifier: 0.02}
    expected |= {layers[0].attention.out_proj: 0.02 / 2**0.5, layers[3].mlp.down_proj: 0.02 / 8**0.5}
    for layer, std in expected.items():
        assert abs(layer.weight.std() / std - 1) < 0.1
        assert layer.bias is None or not layer.bias.any()


def test_a_saved_classifier_is_also_an_encoder(converted, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(converted[0], num_labels=4)
    model.save_pretrained(tmp_path)
    ecg = noise(1, 8, SAMPLES)
    with torch.no_grad():
        expected = AutoModel.from_pretrained(converted[0])(ecg).last_hidden_state
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(ecg).last_hidden_state, expected)


@pytest.mark.parametrize(
    "shape, mask, message",
    [
        ((1, 12, 60), None, r"\(batch, 8 leads, samples\), got \(1, 12, 60\)"),
        (
            (1, 8, 65),
            None,
            "65 samples does not fit: this model takes multiples of patch_size=10 up to num_samples=60",
        ),
        ((1, 8, 70), None, "70 samples does not fit"),
        ((1, 8, 60), torch.zeros(1, 8), "an ECG without any lead"),
        ((1, 8, 60), torch.ones(8), r"shape \(1, 8\), got \(8,\)"),
    ],
)
def test_what_does_not_fit_is_refused(shape, mask, message, converted):
    model = AutoModel.from_pretrained(converted[0])
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape), ecg_lead_mask=mask)


def test_impossible_sizes_are_refused():
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        EcgJepaConfig(patch_size=60)
    assert "patch_size=60 does not divide num_samples=2500" in str(refusal.value.__cause__)
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        EcgJepaConfig(num_attention_heads=7)
    assert "hidden_size=768 must be a multiple of 4 and of num_attention_heads=7" in str(refusal.value.__cause__)
