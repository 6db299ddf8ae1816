"""ECG-CoCa: parity with the formulas, files of its pre-training and of language models, preprocessing, no publishing."""

import json
import logging

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from reference_encoders import relative_error
from reference_foundation_encoders import COCA_TINY, coca, coca_weights, noise
from safetensors.torch import save_file
from transformers import AutoFeatureExtractor, AutoModel

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.checkpoints.publish import publish_model
from elm_hf.modeling.configuration_ecg_coca import EcgCocaConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg_coca import EcgCocaFeatureExtractor
from elm_hf.modeling.modeling_ecg_coca import EcgCocaForSequenceClassification, EcgCocaModel


TOWER = "model.ecg_tower.ecg_tower."


def published(folder, change=None):
    """A file in the format of the published one."""
    weights = coca_weights(COCA_TINY, "module.ecg.")
    weights |= {
        "module.text.embeddings.weight": torch.zeros(5, 3),
        "module.text_decoder.ln_final.bias": torch.zeros(3),
    }
    weights["module.logit_scale"] = torch.tensor(1.0)
    if change is not None:
        change(weights)
    torch.save({"epoch": 20, "name": "cpt", "state_dict": weights, "optimizer": {}, "scaler": {}}, folder / "file.pt")
    return folder / "file.pt"


def language_model(folder, dtype=torch.bfloat16):
    """A folder of a language model that contains the encoder, in two files."""
    folder.mkdir()
    weights = {key: weight.to(dtype) for key, weight in coca_weights(COCA_TINY, TOWER).items()}
    others = {"model.embed_tokens.weight": torch.zeros(4, 2), "model.ecg_projector.weight": torch.zeros(2, 2)}
    save_file(weights, folder / "model-00002-of-00002.safetensors")
    save_file(others, folder / "model-00001-of-00002.safetensors")
    places = dict.fromkeys(weights, "model-00002-of-00002.safetensors")
    places |= dict.fromkeys(others, "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folder of a converted checkpoint, and the published weights."""
    folder = tmp_path_factory.mktemp("ecg_coca")
    convert_checkpoint("ecg_coca", published(folder), folder / "out")
    return folder / "out", coca_weights(COCA_TINY)


def test_parameters_of_the_published_model():
    with torch.device("meta"):
        model = EcgCocaModel(EcgCocaConfig())
    assert model.num_parameters() == 85_989_888
    assert len(model.state_dict()) == 152


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_encoder_agrees_with_the_formulas(implementation, converted):
    folder, weights = converted
    model, ecg = AutoModel.from_pretrained(folder, attn_implementation=implementation), noise(2, 12, 60)
    with torch.no_grad():
        outputs, embedding = model(ecg), model.get_ecg_features(ecg)
    tokens, expected = coca(weights, ecg, COCA_TINY)
    assert outputs.last_hidden_state.shape == (2, 7, 128)
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(embedding, expected) < 1e-5
    scale, offset = weights["ln_post.weight"].double(), weights["ln_post.bias"].double()
    first = torch.nn.functional.layer_norm(tokens[:, 0], (128,), scale, offset)
    assert relative_error(outputs.pooler_output, first) < 1e-5


def test_absent_leads_are_zeros(converted):
    folder, weights = converted
    ecg, mask = noise(2, 12, 60), torch.ones(2, 12, dtype=torch.bool)
    mask[1, 3:] = False
    with torch.no_grad():
        outputs = AutoModel.from_pretrained(folder)(
            ecg.masked_fill(~mask[..., None], float("nan")), ecg_lead_mask=mask
        )
    assert relative_error(outputs.last_hidden_state, coca(weights, ecg * mask[..., None], COCA_TINY)[0]) < 1e-5


def test_all_sizes_follow_from_the_file(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        convert_checkpoint("ecg_coca", published(tmp_path), tmp_path / "out")
    assert "left out 3 weights of other parts of the model" in caplog.text
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = {"num_leads": 12, "num_samples": 60, "patch_size": 10, "hidden_size": 128, "num_hidden_layers": 2}
    expected |= {"num_attention_heads": 2, "intermediate_size": 56, "projection_dim": 20, "license": "unknown"}
    expected |= {"pretraining_data": ["mimic_iv_ecg"]}
    assert {name: config[name] for name in expected} == expected
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("license: unknown", "do not publish them", "arXiv:2408.08849", "aVR, aVF, aVL"):
        assert words in card, words


def test_a_language_model_that_contains_the_encoder(tmp_path, caplog):
    folder = language_model(tmp_path / "gem")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")  # has none of its weights and is not read
    model, _ = convert_checkpoint("ecg_coca", folder, tmp_path / "out")
    assert model.dtype == torch.float32
    expected = coca_weights(COCA_TINY)["proj"].bfloat16().float()
    assert torch.equal(model.projection, expected)
    single, _ = convert_checkpoint("ecg_coca", folder / "model-00002-of-00002.safetensors", tmp_path / "single")
    weights = model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in single.state_dict().items())


def without(weights, text):
    for name in [name for name in weights if text in name]:
        del weights[name]


BAD_FILES = {
    "another model": (
        lambda weights: without(weights, "module.ecg."),
        "names begin with module.ecg. or model.ecg_tower",
    ),
    "another encoder": (
        lambda weights: without(weights, "conv1"),
        "not a checkpoint of ecg_coca: it lacks conv1.weight",
    ),
    "missing": (lambda weights: without(weights, "1.ln_2.bias"), r"1 missing: transformer.resblocks.1.ln_2.bias"),
    "unknown": (lambda weights: weights.update({"module.ecg.ls_1": torch.zeros(2)}), "1 unknown: ls_1"),
    "heads": (
        lambda weights: weights.update({"module.ecg.conv1.weight": torch.zeros(100, 12, 10)}),
        "hidden_size=100",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_other_files_are_refused(case, tmp_path):
    change, message = BAD_FILES[case]
    with pytest.raises(ValueError, match=f"file.pt: .*{message}"):
        convert_checkpoint("ecg_coca", published(tmp_path, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_without_the_encoder_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: has no safetensors file"):
        convert_checkpoint("ecg_coca", tmp_path / "empty", tmp_path / "out")
    folder = language_model(tmp_path / "gem")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="gem: model-00002-of-00002.safetensors is missing"):
        convert_checkpoint("ecg_coca", folder, tmp_path / "out")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "a.safetensors"}}')
    with pytest.raises(ValueError, match="no weight begins with model.ecg_tower.ecg_tower."):
        convert_checkpoint("ecg_coca", folder, tmp_path / "out")


def test_it_is_not_published(converted):
    with pytest.raises(ValueError, match="config.json: has the weights of ecg_coca, for which no licence is stated"):
        publish_model(converted[0], "someone/ecg-coca", dry_run=True)


def test_the_preprocessing(tmp_path, shared_data):
    EcgCocaFeatureExtractor().save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    path = shared_data / "ptb_xl" / "records500" / "06000" / "06000_hr"
    ecg = np.fromfile(f"{path}.dat", dtype="<i2").reshape(-1, 12).T / 1000
    order = [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]  # aVF before aVL
    np.testing.assert_allclose(extractor(str(path))["ecg_values"][0], ecg[order], atol=1e-6)
    ecg[4] = np.nan
    inputs = extractor(ecg[::-1, :1500], sampling_rate=500, lead_names=LEADS[::-1])
    expected = np.zeros((12, 5000))
    expected[:, :1500] = np.nan_to_num(ecg[order, :1500])
    np.testing.assert_allclose(inputs["ecg_values"][0], expected, atol=1e-6)
    assert np.flatnonzero(~inputs["ecg_lead_mask"][0]).tolist() == [5]


def test_hidden_states_and_gradient_checkpointing(converted):
    model = EcgCocaForSequenceClassification(EcgCocaConfig.from_pretrained(converted[0], num_labels=3))
    ecg, labels, gradients = noise(2, 12, 60), torch.tensor([0, 2]), []
    for is_checkpointed in (False, True):
        model.train().zero_grad()
        if is_checkpointed:
            model.activation_checkpointing_enable()
        model(ecg, labels=labels).loss.backward()
        gradients.append({name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == dict(model.named_parameters()).keys() - {
        "ecg_coca.projection"
    }  # of `get_ecg_features`
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name
    with torch.no_grad():
        states = model.eval()(ecg, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 7, 128)] * 3


def test_new_weights_follow_the_reference():
    torch.manual_seed(0)
    model = EcgCocaModel(EcgCocaConfig(hidden_size=128, num_attention_heads=2, num_hidden_layers=1))
    attention, mlp = model.layers[0].attention, model.layers[0].mlp
    expected = {model.position_embeddings: 128**-0.5, model.projection: 128**-0.5}
    expected |= {attention.qkv_proj.weight: (2 / (4 * 128)) ** 0.5, attention.out_proj.weight: (1 / 384) ** 0.5}
    expected |= {mlp.up_proj.weight: (1 / 384) ** 0.5}
    for weight, std in expected.items():
        assert abs(weight.std() / std - 1) < 0.1
    assert not attention.qkv_proj.bias.any() and not attention.out_proj.bias.any() and mlp.up_proj.bias.all()


@pytest.mark.parametrize(
    "shape, mask, message",
    [
        ((1, 8, 60), None, r"\(batch, 12 leads, 60 samples\), got \(1, 8, 60\)"),
        ((1, 12, 50), None, r"got \(1, 12, 50\)"),
        ((1, 12, 60), torch.zeros(1, 12), "an ECG without any lead"),
        ((1, 12, 60), torch.ones(12), r"shape \(1, 12\), got \(12,\)"),
    ],
)
def test_what_does_not_fit_is_refused(shape, mask, message, converted):
    model = AutoModel.from_pretrained(converted[0])
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape), ecg_lead_mask=mask)


def test_impossible_sizes_are_refused():
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        EcgCocaConfig(patch_size=60)
    assert "patch_size=60 does not divide num_samples=5000" in str(refusal.value.__cause__)
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        EcgCocaConfig(hidden_size=64, num_attention_heads=1)
    assert "at least two heads" in str(refusal.value.__cause__)
