"""HuBERT-ECG: parity with the formulas and with transformers, published folders, preprocessing of leads in one string."""

import json
import logging

import numpy as np
import pytest
import scipy.signal
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from reference_encoders import relative_error
from reference_foundation_encoders import HUBERT_NAMES, HUBERT_TINY, draw, noise, wav2vec, wav2vec_weights
from safetensors.torch import save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, HubertConfig, HubertModel

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.modeling.configuration_hubert_ecg import HubertEcgConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_hubert_ecg import HubertEcgFeatureExtractor
from elm_hf.modeling.modeling_hubert_ecg import HubertEcgForSequenceClassification, HubertEcgModel


PUBLISHED_SIZES = {
    "small": ((512, 8, 8, 2048), 30_209_152),
    "base": ((768, 12, 12, 3072), 92_798_080),
    "large": ((960, 16, 12, 3840), 187_643_776),
}
SIZE_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
WIDTH, LABELS = HUBERT_TINY["width"], HUBERT_TINY["labels"]
NETWORK = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 72}
NETWORK |= {"conv_dim": [20] * 5, "conv_kernel": [10, 3, 3, 2, 2], "conv_stride": [4, 2, 2, 2, 2]}
# As the authors' configuration: fields of transformers' HuBERT, and some of their own.
CONFIG = NETWORK | {
    "model_type": "hubert_ecg",
    "architectures": ["HuBERTECG"],
    "ensemble_length": 1,
    "vocab_sizes": [9],
}
CONFIG |= {"auto_map": {"AutoModel": "hubert_ecg.HuBERTECG"}, "mask_time_prob": 0.33, "mask_time_length": 1}
CONFIG |= {"layerdrop": 0.1, "feat_extract_norm": "group", "conv_bias": False, "vocab_size": 32, "final_dropout": 0.1}
TASK = {"masked_spec_embed": (WIDTH,), "final_proj.0.weight": (16, WIDTH), "final_proj.0.bias": (16,)}
TASK |= {"label_embedding.0.weight": (9, 16)}
HEADS = {
    "linear": {"classifier.weight": (LABELS, WIDTH), "classifier.bias": (LABELS,)},
    "mlp": {
        "classifier.0.weight": (30, WIDTH),
        "classifier.0.bias": (30,),
        "classifier.2.weight": (LABELS, 30),
        "classifier.2.bias": (LABELS,),
    },
    "label_embedding": {"label_embedding.weight": (LABELS, WIDTH)},
}


def published_weights(head: str | None = None, old_names: bool = False) -> dict[str, torch.Tensor]:
    prefix = "" if head is None else "hubert_ecg."
    encoder = wav2vec_weights(HUBERT_TINY, HUBERT_NAMES, prefix, old_names)
    return encoder | draw(TASK if head is None else HEADS[head], seed=1)


def published(folder, head=None, old_names=False, config=CONFIG, change=None):
    """A folder as on the Hub."""
    weights = published_weights(head, old_names)
    if change is not None:
        change(weights)
    repository = folder / "hubert-ecg"
    repository.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, repository / "model.safetensors")
    model_type = "hubert_ecg" if head is None else "hubert_ecg_classification"
    (repository / "config.json").write_text(json.dumps({"model_type": model_type} | config))
    return repository


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Folder of a converted encoder, and the published weights."""
    folder = tmp_path_factory.mktemp("hubert_ecg")
    convert_checkpoint("hubert_ecg", published(folder), folder / "out")
    return folder / "out", published_weights()


def reference_tokens(weights, ecg, prefix=""):
    return wav2vec(weights, ecg.flatten(1)[:, None], HUBERT_TINY, HUBERT_NAMES, prefix)


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_parameters_of_the_published_sizes(size):
    sizes, number = PUBLISHED_SIZES[size]
    with torch.device("meta"):
        assert HubertEcgModel(HubertEcgConfig(**dict(zip(SIZE_FIELDS, sizes)))).num_parameters() == number


@pytest.mark.parametrize("leads, tokens", [(12, 93), (8, 62), (1, 7)])
def test_the_encoder_agrees_with_the_formulas(leads, tokens, pretrained):
    folder, weights = pretrained
    model, ecg = AutoModel.from_pretrained(folder), noise(2, leads, 500)
    with torch.no_grad():
        outputs = model(ecg)
    expected = reference_tokens(weights, ecg)
    assert outputs.last_hidden_state.shape == (2, tokens, WIDTH)
    assert relative_error(outputs.last_hidden_state, expected) < 1e-5
    assert relative_error(outputs.pooler_output, expected.mean(1)) < 1e-5


def test_it_is_transformers_hubert(pretrained):
    folder, _ = pretrained
    model, ecg = AutoModel.from_pretrained(folder).train(), noise(1, 12, 500)
    plain = HubertModel(HubertConfig(**NETWORK, mask_time_prob=0.0, layerdrop=0.0)).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = plain(ecg.reshape(1, -1)).last_hidden_state
        assert torch.allclose(model.eval()(ecg).last_hidden_state, expected, atol=1e-6)


def test_ten_seconds_are_two_pieces(pretrained):
    folder, weights = pretrained
    model, ecg = AutoModel.from_pretrained(folder), noise(2, 12, 1000)
    with torch.no_grad():
        outputs = model(ecg, output_hidden_states=True)
    pieces = torch.cat([reference_tokens(weights, piece) for piece in ecg.split(500, dim=2)], dim=1)
    assert relative_error(outputs.last_hidden_state, pieces) < 1e-5
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(4, 93, WIDTH)] * 3


@pytest.mark.parametrize("head", HEADS)
def test_classifiers(head, tmp_path):
    config = CONFIG | {"model_type": "hubert_ecg_classification"}
    if head == "linear":
        config |= {"id2label": {str(index): f"finding {index}" for index in range(LABELS)}}
    convert_checkpoint("hubert_ecg", published(tmp_path, head, config=config), tmp_path / "out")
    model, weights = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out"), published_weights(head)
    ecg = noise(2, 12, 500)
    with torch.no_grad():
        logits = model(ecg).logits
    pooled = reference_tokens(weights, ecg, "hubert_ecg.").mean(1)
    weights = {name: value.double() for name, value in weights.items()}
    if head == "linear":
        expected = pooled @ weights["classifier.weight"].T + weights["classifier.bias"]
    elif head == "mlp":
        hidden = torch.tanh(pooled @ weights["classifier.0.weight"].T + weights["classifier.0.bias"])
        expected = hidden @ weights["classifier.2.weight"].T + weights["classifier.2.bias"]
    else:
        expected = torch.cosine_similarity(pooled[:, None], weights["label_embedding.weight"][None], dim=-1)
    assert relative_error(logits, expected) < 1e-5
    assert model.config.id2label[3] == ("finding 3" if head == "linear" else "LABEL_3")
    encoder = AutoModel.from_pretrained(tmp_path / "out")
    assert torch.equal(encoder(ecg).last_hidden_state, model.hubert_ecg(ecg).last_hidden_state)


@pytest.mark.parametrize("old_names", [True, False])
def test_the_pretrained_folder(old_names, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        model, extractor = convert_checkpoint("hubert_ecg", published(tmp_path, old_names=old_names), tmp_path / "out")
    assert type(model) is HubertEcgModel and type(extractor) is HubertEcgFeatureExtractor
    assert (
        "left out final_proj.0.bias, final_proj.0.weight, label_embedding.0.weight, masked_spec_embed" in caplog.text
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = NETWORK | {"license": "cc-by-nc-4.0", "mask_time_prob": 0.0, "layerdrop": 0.0, "piece_samples": 500}
    assert {name: config[name] for name in expected} == expected
    assert "ptb_xl" in config["pretraining_data"]
    assert "vocab_sizes" not in config and "ensemble_length" not in config
    ecg = noise(1, 2, 500)
    with torch.no_grad():
        assert relative_error(model(ecg).last_hidden_state, reference_tokens(published_weights(), ecg)) < 1e-5
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("license: cc-by-nc-4.0", "commercial use is not permitted", "medRxiv"):
        assert words in card, words


def without(name):
    return {key: value for key, value in CONFIG.items() if key != name}


BAD_FOLDERS = {
    "speech": ({"config": CONFIG | {"model_type": "hubert"}}, r"its `model_type` is 'hubert'; expected hubert_ecg or"),
    "no heads": (
        {"config": without("num_attention_heads")},
        "lacks num_attention_heads, which the weights do not show",
    ),
    "sizes": (
        {"config": CONFIG | {"hidden_size": 48}},
        r"weights do not fit a hubert_ecg model; \d+ of another shape",
    ),
    "layers": ({"config": CONFIG | {"num_hidden_layers": 3}}, r"16 missing: encoder\.layers\.2\.attention"),
    "unknown": ({"change": lambda weights: weights.update({"head.bias": torch.zeros(2)})}, r"1 unknown: head\.bias"),
    "not numbers": ({"config": CONFIG | {"hidden_size": "wide"}}, "hidden_size"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_other_folders_are_refused(case, tmp_path):
    options, message = BAD_FOLDERS[case]
    with pytest.raises(ValueError, match=f"hubert-ecg.*: .*{message}"):
        convert_checkpoint("hubert_ecg", published(tmp_path, **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickles_and_folders_without_weights_are_refused(tmp_path):
    (tmp_path / "hubert_ecg_base.pt").write_bytes(b"\x80\x02.")
    with pytest.raises(ValueError, match="expected a folder of HuBERT-ECG .* Its .pt files contain code .*not read"):
        convert_checkpoint("hubert_ecg", tmp_path / "hubert_ecg_base.pt", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        convert_checkpoint("hubert_ecg", tmp_path / "nowhere", tmp_path / "out")
    folder = published(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="model.safetensors is missing; weights are read from safetensors only"):
        convert_checkpoint("hubert_ecg", folder, tmp_path / "out")
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="its weights cannot be read"):
        convert_checkpoint("hubert_ecg", folder, tmp_path / "out")
    with pytest.raises(ValueError, match="hubert-ecg: a folder; expected a file, as ecg_fm was published"):
        convert_checkpoint("ecg_fm", folder, tmp_path / "out")


def test_weights_in_several_files(tmp_path):
    folder, weights = published(tmp_path), published_weights()
    parts = {"a.safetensors": list(weights)[::2], "b.safetensors": list(weights)[1::2]}
    for file, names in parts.items():
        save_file({name: weights[name].contiguous() for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    model, _ = convert_checkpoint("hubert_ecg", folder, tmp_path / "out")
    assert torch.equal(model.feature_projection.projection.weight, weights["feature_projection.projection.weight"])


def string_of(ecg, rate):
    """The authors' preprocessing, written out: leads of 5 s in one string at 100 Hz."""
    taps = int(0.3 * rate)
    taps += 1 if taps % 2 == 0 else 0
    ecg = scipy.signal.filtfilt(scipy.signal.firwin(taps, [0.05, 47], pass_zero=False, fs=rate), 1, ecg)
    ecg = scipy.signal.resample(ecg, int(ecg.shape[1] * 500 / rate), axis=1)
    low, high = ecg.min(1, keepdims=True), ecg.max(1, keepdims=True)
    ecg = (2 * (ecg - low) / (high - low + 1e-8) - 1)[:, :2500]
    ecg[np.isnan(ecg)] = np.nanmean(ecg)
    return scipy.signal.decimate(ecg.reshape(-1), 5)


def test_the_preprocessing(pretrained, shared_data):
    path = shared_data / "ptb_xl" / "records500" / "06000" / "06000_hr"
    ecg = np.fromfile(f"{path}.dat", dtype="<i2").reshape(-1, 12).T / 1000
    extractor = AutoFeatureExtractor.from_pretrained(pretrained[0])
    assert type(extractor) is HubertEcgFeatureExtractor
    values = extractor(str(path))["ecg_values"][0]
    assert values.shape == (12, 500)
    np.testing.assert_allclose(values.ravel(), string_of(ecg, 500), atol=1e-5)
    # Samples near the ends of a lead depend on the lead beside it.
    per_lead = np.stack([string_of(lead[None], 500) for lead in ecg])
    assert np.abs(values - per_lead)[:, 20:-20].max() < 0.002 < 0.05 < np.abs(values - per_lead).max()
    # Another rate, leads by name; an absent lead is the mean of the others.
    for rate in (250, 125):
        slow = ecg[:, :: 500 // rate]
        found = extractor(slow[::-1], sampling_rate=rate, lead_names=LEADS[::-1])["ecg_values"][0]
        np.testing.assert_allclose(found.ravel(), string_of(slow, rate), atol=1e-5)
    absent = np.where(np.arange(12)[:, None] == 4, np.nan, ecg)
    inputs = extractor(absent, sampling_rate=500)
    np.testing.assert_allclose(inputs["ecg_values"][0].ravel(), string_of(absent, 500), atol=1e-5)
    assert np.flatnonzero(~inputs["ecg_lead_mask"][0]).tolist() == [4]


def test_two_pieces_are_two_strings(shared_data):
    ecg = np.fromfile(shared_data / "ptb_xl/records500/06000/06000_hr.dat", dtype="<i2").reshape(-1, 12).T / 1000
    both = HubertEcgFeatureExtractor(num_samples=1000)(ecg, sampling_rate=500)["ecg_values"][0]
    first = HubertEcgFeatureExtractor()(ecg, sampling_rate=500)["ecg_values"][0]
    np.testing.assert_array_equal(both[:, :500], first)
    # The second string begins with the second half of lead I, not with the end of the first string.
    filtered = scipy.signal.filtfilt(scipy.signal.firwin(151, [0.05, 47], pass_zero=False, fs=500), 1, ecg)
    low, high = filtered.min(1, keepdims=True), filtered.max(1, keepdims=True)
    scaled = 2 * (filtered - low) / (high - low + 1e-8) - 1
    expected = scipy.signal.decimate(scaled[:, 2500:].reshape(-1), 5)
    np.testing.assert_allclose(both[:, 500:].ravel(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "rate, samples, message",
    [
        (
            90,
            2000,
            "a sampling rate of 90 Hz is too low: the filter of this model passes frequencies up to 47 Hz, which need more than 94",
        ),
        (500, 453, "the ECG has 453 samples; the filter of this model needs more than 453 at 500 Hz"),
        (500, 2400, "the ECG is 4.8 s long, the model reads 5 s"),
    ],
)
def test_ecgs_that_cannot_be_prepared_are_refused(rate, samples, message):
    ecg = np.random.default_rng(0).normal(0, 0.1, (12, samples)).astype(np.float32)
    with pytest.raises(ValueError, match=f"ECG 1 of 1: {message}"):
        HubertEcgFeatureExtractor()(ecg, sampling_rate=rate)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_samples": 700}, "num_samples=700 is neither a multiple of piece_samples=500 nor less"),
        ({"sampling_rate": 300}, "sampling_rate=300 must divide 500 Hz"),
        ({"normalization": "z_score"}, 'normalization "z_score" is not one of min_max_per_lead'),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HubertEcgFeatureExtractor(**settings)


def test_what_does_not_fit_is_refused(pretrained):
    model = AutoModel.from_pretrained(pretrained[0])
    for shape, message in (
        ((1, 12, 700), "700 samples cannot be cut"),
        ((1, 1, 60), "60 samples of all leads give no"),
    ):
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"`ecg_lead_mask` must have the shape \(1, 12\), got \(12,\)"):
        model(torch.zeros(1, 12, 500), ecg_lead_mask=torch.ones(12))
    with pytest.raises(StrictDataclassClassValidationError, match="mask_time_prob=0.3 .*must be 0"):
        HubertEcgConfig(mask_time_prob=0.3)


def test_the_classifier_trains_without_masking_tokens():
    torch.manual_seed(0)
    config = HubertEcgConfig(**NETWORK, num_labels=2, problem_type="single_label_classification", piece_samples=100)
    model = HubertEcgForSequenceClassification(config).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.hubert_ecg.encoder.layers:
        layer.attention.dropout = 0.0
    ecg = noise(3, 12, 200)
    labels = torch.tensor([0, 1, 1])
    outputs = model(ecg, labels=labels)
    assert torch.equal(outputs.logits, model(ecg).logits)
    assert torch.allclose(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, labels))
    outputs.loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())
