"""ECG-FM: parity with the formulas, pieces of 5 s, missing leads, published files, preprocessing."""

import json
import logging

import numpy as np
import pytest
import torch
from reference_encoders import relative_error
from reference_foundation_encoders import ECG_FM_NAMES, ECG_FM_TINY, draw, noise, wav2vec, wav2vec_weights
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.modeling.configuration_ecg_fm import EcgFmConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg_fm import EcgFmFeatureExtractor
from elm_hf.modeling.modeling_ecg_fm import EcgFmForSequenceClassification, EcgFmModel


CFG = {"common": {"seed": 1}, "model": {"layer_norm_first": False, "extractor_mode": "default", "conv_bias": False}}
CFG["model"] |= {"encoder_attention_heads": ECG_FM_TINY["heads"], "conv_feature_layers": "[(24, 2, 2)] * 4"}


def published_weights(fine_tuned: bool, old_names: bool = False) -> dict[str, torch.Tensor]:
    width, labels = ECG_FM_TINY["width"], ECG_FM_TINY["labels"]
    if fine_tuned:
        head = draw({"proj.weight": (labels, width), "proj.bias": (labels,)}, seed=1)
        return wav2vec_weights(ECG_FM_TINY, ECG_FM_NAMES, "encoder.", old_names) | head
    task = {"mask_emb": (width,), "quantizer.vars": (1, 6, 4), "quantizer.weight_proj.weight": (6, 24)}
    task |= {"quantizer.weight_proj.bias": (6,), "project_q.weight": (8, 8), "project_q.bias": (8,)}
    task |= {"final_proj.weight": (8, width), "final_proj.bias": (8,)}
    return wav2vec_weights(ECG_FM_TINY, ECG_FM_NAMES, old_names=old_names) | draw(task, seed=1)


def published(folder, fine_tuned=False, old_names=False, cfg=CFG, change=None):
    """A file in the format of the published ones."""
    weights = published_weights(fine_tuned, old_names)
    if change is not None:
        change(weights)
    rest = {
        "args": None,
        "cfg": cfg,
        "criterion": None,
        "optimizer_history": [{"num_updates": 3, "lr": np.float64(1)}],
    }
    rest |= {"task_state": {}, "extra_state": {"epoch": 2}, "last_optimizer_state": {"state": {}}}
    torch.save({"model": weights} | {key: value for key, value in rest.items() if value != "none"}, folder / "file.pt")
    return folder / "file.pt"


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """Folder of a converted classifier, and the published weights."""
    folder = tmp_path_factory.mktemp("ecg_fm")
    convert_checkpoint("ecg_fm", published(folder, fine_tuned=True), folder / "out")
    return folder / "out", published_weights(fine_tuned=True)


def reference_tokens(weights, ecg):
    return wav2vec(weights, ecg, ECG_FM_TINY, ECG_FM_NAMES, "encoder.")


def test_parameters_of_the_published_model():
    with torch.device("meta"):
        assert EcgFmModel(EcgFmConfig()).num_parameters() == 90_373_248
        classifier = EcgFmForSequenceClassification(EcgFmConfig(num_labels=17))
    assert classifier.num_parameters() == 90_386_321
    assert len(classifier.state_dict()) == 209
    assert not EcgFmConfig().do_stable_layer_norm


@pytest.mark.parametrize("samples", [2500, 333])
def test_the_encoder_agrees_with_the_formulas(samples, fine_tuned):
    folder, weights = fine_tuned
    model, ecg = AutoModel.from_pretrained(folder), noise(2, 12, samples)
    with torch.no_grad():
        outputs = model(ecg)
    tokens = reference_tokens(weights, ecg)
    assert tokens.shape[1] == {2500: 156, 333: 20}[samples]
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(outputs.pooler_output, tokens.mean(1)) < 1e-5


def test_ten_seconds_are_two_pieces(fine_tuned):
    folder, weights = fine_tuned
    model, ecg = AutoModelForSequenceClassification.from_pretrained(folder), noise(2, 12, 5000)
    with torch.no_grad():
        outputs, logits = model.ecg_fm(ecg), model(ecg).logits
        whole = model.ecg_fm(ecg[:, :, :2500]).last_hidden_state
    halves = [reference_tokens(weights, half) for half in ecg.split(2500, dim=2)]
    assert outputs.last_hidden_state.shape == (2, 312, 128)
    assert relative_error(outputs.last_hidden_state, torch.cat(halves, dim=1)) < 1e-5
    assert torch.allclose(whole, outputs.last_hidden_state[:, :156], atol=1e-5)
    probabilities = [
        torch.sigmoid(half.mean(1) @ weights["proj.weight"].double().T + weights["proj.bias"]) for half in halves
    ]
    assert relative_error(torch.sigmoid(logits), sum(probabilities) / 2) < 1e-5
    model.config.piece_samples = None  # as one piece
    with torch.no_grad():
        assert relative_error(model.ecg_fm(ecg[:1]).last_hidden_state, reference_tokens(weights, ecg[:1])) < 1e-5


def test_missing_leads_are_zeros(fine_tuned):
    folder, weights = fine_tuned
    model, ecg = AutoModel.from_pretrained(folder), noise(2, 12, 5000)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 3:] = False
    with torch.no_grad():
        tokens = model(ecg.masked_fill(~mask[..., None], float("nan")), ecg_lead_mask=mask).last_hidden_state
    halves = (ecg * mask[..., None]).split(2500, dim=2)
    assert relative_error(tokens, torch.cat([reference_tokens(weights, half) for half in halves], dim=1)) < 1e-5


@pytest.mark.parametrize("old_names", [True, False])
def test_the_pretrained_file(old_names, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        model, extractor = convert_checkpoint("ecg_fm", published(tmp_path, old_names=old_names), tmp_path / "out")
    assert type(model) is EcgFmModel and type(extractor) is EcgFmFeatureExtractor
    assert "left out final_proj.bias, final_proj.weight, mask_emb, project_q.bias" in caplog.text
    ecg, weights = noise(1, 12, 500), published_weights(False, old_names)
    with torch.no_grad():
        tokens = model(ecg).last_hidden_state
    assert relative_error(tokens, wav2vec(weights, ecg, ECG_FM_TINY, ECG_FM_NAMES)) < 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = {"conv_dim": [24] * 4, "conv_kernel": [2] * 4, "conv_stride": [2] * 4, "hidden_size": 128}
    expected |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 80, "num_leads": 12}
    expected |= {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16, "license": "mit"}
    expected |= {"pretraining_data": ["mimic_iv_ecg", "ptb_xl", "cpsc", "csn", "georgia"]}
    assert {name: config[name] for name in expected} == expected


def test_the_labels_and_the_card(fine_tuned):
    folder, _ = fine_tuned
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    assert (len(labels), labels["0"], labels["6"], labels["16"]) == (
        17,
        "Poor data quality",
        "Atrial fibrillation",
        "Electronic pacemaker",
    )
    card = (folder / "README.md").read_text()
    for words in ("license: mit", "JAMIA Open", "PTB-XL, CPSC, Georgia", "classifier of 17 labels", "`ptb_xl`"):
        assert words in card, words


def changed(**settings):
    return CFG | {"model": CFG["model"] | settings}


BAD_FILES = {
    "pre-norm": ({"cfg": changed(layer_norm_first=True)}, r"layer_norm_first=True; expected False.*another network"),
    "norms": ({"cfg": changed(extractor_mode="layer_norm")}, "extractor_mode='layer_norm'; expected 'default'"),
    "bias": ({"cfg": changed(conv_bias=True)}, "conv_bias=True; expected False"),
    "missing": (
        {"change": lambda weights: weights.pop("encoder.layers.1.fc2.bias")},
        r"1 missing: encoder\.layers\.1\.fc2\.bias",
    ),
    "unknown": ({"change": lambda weights: weights.update({"head.bias": torch.zeros(2)})}, r"1 unknown: head\.bias"),
    "another model": (
        {"change": lambda weights: [weights.pop(name) for name in list(weights) if "conv_layers" in name]},
        r"not a checkpoint of ecg_fm: it lacks feature_extractor\.conv_layers\.0\.0\.weight",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_other_files_are_refused(case, tmp_path):
    options, message = BAD_FILES[case]
    with pytest.raises(ValueError, match=f"file.pt: .*{message}"):
        convert_checkpoint("ecg_fm", published(tmp_path, **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_without_settings_is_taken_for_the_published_network(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        model, _ = convert_checkpoint("ecg_fm", published(tmp_path, cfg="none"), tmp_path / "out")
    assert 'has no settings (cfg["model"])' in caplog.text
    assert model.config.num_attention_heads == 2  # of 64 dimensions


def test_the_preprocessing(fine_tuned, shared_data):
    path = shared_data / "ptb_xl" / "records500" / "06000" / "06000_hr"
    ecg = np.fromfile(f"{path}.dat", dtype="<i2").reshape(-1, 12).T / 1000
    extractor = AutoFeatureExtractor.from_pretrained(fine_tuned[0])
    assert type(extractor) is EcgFmFeatureExtractor and extractor.num_samples == 5000

    def expected(ecg):
        return np.stack([(lead - lead.mean()) / np.sqrt(((lead - lead.mean()) ** 2).mean()) for lead in ecg])

    np.testing.assert_allclose(extractor(str(path))["ecg_values"][0], expected(ecg), atol=1e-5)
    # Leads that are flat or absent are zeros.
    odd = ecg.copy()
    odd[2], odd[7] = np.nan, 0.3
    inputs = extractor(odd, sampling_rate=500)
    rest = np.setdiff1d(np.arange(12), [2, 7])
    np.testing.assert_allclose(inputs["ecg_values"][0, rest], expected(ecg)[rest], atol=1e-5)
    assert not inputs["ecg_values"][0, [2, 7]].any()
    assert np.flatnonzero(~inputs["ecg_lead_mask"][0]).tolist() == [2, 7]
    # The statistics are those of the whole ECG, also if the model reads less.
    short = EcgFmFeatureExtractor(num_samples=2500)(ecg, sampling_rate=500)["ecg_values"][0]
    np.testing.assert_allclose(short, expected(ecg)[:, :2500], atol=1e-5)
    # Linear interpolation keeps the first and the last sample.
    inputs = extractor(ecg[::-1, ::2], sampling_rate=250, lead_names=LEADS[::-1])
    slow = np.stack([np.interp(np.arange(5000) * 2499 / 4999, np.arange(2500), lead) for lead in ecg[:, ::2]])
    np.testing.assert_allclose(inputs["ecg_values"][0], expected(slow), atol=1e-5)


def test_gradients_flow_and_checkpointing_keeps_them(fine_tuned):
    model = AutoModelForSequenceClassification.from_pretrained(fine_tuned[0])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.attention_dropout = 0.0
    ecg, labels, gradients = noise(2, 12, 320), torch.ones(2, 17), []
    for layer in model.ecg_fm.encoder.layers:
        layer.attention.dropout = 0.0
    for is_checkpointed in (False, True):
        model.train().zero_grad()
        if is_checkpointed:
            model.activation_checkpointing_enable()
        model(ecg, labels=labels).loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        if not name.endswith("k_proj.bias"):  # adds the same to all scores of a query
            assert gradient.abs().sum() > 0, name
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def test_attentions_and_hidden_states(fine_tuned):
    model = AutoModel.from_pretrained(fine_tuned[0], attn_implementation="eager")
    with torch.no_grad():
        outputs = model(noise(2, 12, 5000), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(4, 156, 128)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(4, 2, 156, 156)] * 2


def test_new_weights_follow_the_reference():
    torch.manual_seed(0)
    config = EcgFmConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=512, conv_dim=[64] * 4
    )
    model = EcgFmModel(config)
    taps = model.encoder.pos_conv_embed.conv.parametrizations.weight
    assert abs(taps.original1.std() / (4 / (128 * 64)) ** 0.5 - 1) < 0.05
    assert torch.allclose(taps.original0, taps.original1.square().sum((0, 1), keepdim=True).sqrt())
    assert abs(model.encoder.layers[0].feed_forward.intermediate_dense.weight.std() / 0.02 - 1) < 0.05
    assert abs(model.feature_extractor.conv_layers[1].conv.weight.std() / (2 / 128) ** 0.5 - 1) < 0.05


@pytest.mark.parametrize(
    "shape, mask, message",
    [
        ((1, 11, 2500), None, r"12 leads, at least 16 samples\), got \(1, 11, 2500\)"),
        ((1, 12, 15), None, r"got \(1, 12, 15\)"),
        ((1, 12, 4000), None, "4000 samples cannot be cut into pieces of 2500"),
        ((12, 2500), None, r"shape \(batch, leads, samples\), got \(12, 2500\)"),
        ((1, 12, 2500), torch.zeros(1, 12), "an ECG without any lead"),
        ((1, 12, 2500), torch.ones(12), r"shape \(1, 12\), got \(12,\)"),
    ],
)
def test_what_does_not_fit_is_refused(shape, mask, message, fine_tuned):
    model = AutoModel.from_pretrained(fine_tuned[0])
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape), ecg_lead_mask=mask)


def test_other_networks_are_refused():
    with pytest.raises(Exception, match="do_stable_layer_norm=True; ECG-FM has do_stable_layer_norm=False"):
        EcgFmConfig(do_stable_layer_norm=True)
