"""ECGFounder and CLEF: parity with the formulas, single leads, published files, preprocessing, models that contain them."""

import json
import logging

import numpy as np
import pytest
import scipy.signal
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from reference_encoders import relative_error
from reference_foundation_encoders import CLEF_TINY, ECGFOUNDER_TINY, net1d, net1d_weights, noise
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.modeling.configuration_net1d import Net1DConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_net1d import Net1DFeatureExtractor
from elm_hf.modeling.modeling_net1d import Net1DForSequenceClassification, Net1DModel


PUBLISHED_SIZES = {
    "ecgfounder": ({}, 30_598_896, 150 * 1025),
    "ecgfounder, lead I": ({"num_leads": 1}, 30_587_632, 150 * 1025),
    "clef small": (
        {
            "num_leads": 1,
            "embedding_size": 32,
            "hidden_sizes": [32, 64, 64, 128, 128, 256],
            "depths": [1, 1, 2, 2, 2, 2],
            "bottleneck_ratio": 0.5,
            "group_size": 8,
        },
        443_184,
        None,
    ),
    "clef medium": ({"num_leads": 1}, 30_587_632, None),
    "clef large": (
        {
            "num_leads": 1,
            "embedding_size": 128,
            "hidden_sizes": [128, 256, 256, 512, 512, 1024, 1024, 2048, 2048],
            "depths": [2, 3, 3, 4, 4, 5, 5, 6, 6],
            "bottleneck_ratio": 1.5,
            "group_size": 32,
        },
        296_301_312,
        None,
    ),
}


def published(folder, kind="ecgfounder", sizes=None, change=None):
    """A file in the format of the published ones, NumPy numbers included. `change` edits its weights."""
    sizes = sizes or (CLEF_TINY if kind == "clef" else ECGFOUNDER_TINY)
    weights = net1d_weights(sizes, "backbone." if kind == "clef" else "")
    if change is not None:
        change(weights)
    rest = {"epoch": 3, "optimizer": {"state": {}}, "val_auroc": np.float64(0.9), "scheduler": {"best": np.float32(1)}}
    torch.save({"state_dict": weights} | rest, folder / "file.pth")
    return folder / "file.pth"


@pytest.fixture(scope="module")
def ecgfounder(tmp_path_factory):
    """Folder of a converted checkpoint, and the published weights."""
    folder = tmp_path_factory.mktemp("ecgfounder")
    convert_checkpoint("ecgfounder", published(folder), folder / "out")
    return folder / "out", net1d_weights(ECGFOUNDER_TINY)


@pytest.fixture(scope="module")
def clef(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clef")
    convert_checkpoint("clef", published(folder, "clef"), folder / "out")
    return folder / "out", net1d_weights(CLEF_TINY)


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_parameters_of_the_published_sizes(name):
    fields, number, head = PUBLISHED_SIZES[name]
    with torch.device("meta"):
        assert Net1DModel(Net1DConfig(**fields)).num_parameters() == number
        if head is not None:
            classifier = Net1DForSequenceClassification(Net1DConfig(num_labels=150, **fields))
            assert classifier.num_parameters() == number + head


@pytest.mark.parametrize("samples", [256, 77, 5, 1])  # 77: odd lengths in several stages
def test_ecgfounder_agrees_with_the_formulas(samples, ecgfounder):
    folder, weights = ecgfounder
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    ecg = noise(3, 12, samples)
    with torch.no_grad():
        outputs, logits = model.net1d(ecg), model(ecg).logits
    tokens = net1d(weights, ecg)
    pooled = tokens.mean(1)
    expected = pooled @ weights["dense.weight"].double().T + weights["dense.bias"]
    assert outputs.last_hidden_state.shape == (3, -(-samples // 16), 12)  # halved by the stem and three stages
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(outputs.pooler_output, pooled) < 1e-5
    assert relative_error(logits, expected) < 1e-5


def test_single_leads_are_encoded_one_by_one(clef):
    folder, weights = clef
    model = AutoModel.from_pretrained(folder)
    ecg = noise(2, 3, 100)
    mask = torch.tensor([[True, True, True], [False, True, False]])
    with torch.no_grad():
        outputs = model(ecg)
        masked = model(ecg.masked_fill(~mask[..., None], float("nan")), ecg_lead_mask=mask)
    tokens = torch.cat([net1d(weights, ecg[:, lead : lead + 1]) for lead in range(3)], dim=1)
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(outputs.pooler_output, tokens.mean(1)) < 1e-5
    assert torch.equal(masked.last_hidden_state[0], outputs.last_hidden_state[0])
    per_lead = masked.last_hidden_state[1].unflatten(0, (3, -1))
    assert relative_error(per_lead[1], tokens[1].unflatten(0, (3, -1))[1]) < 1e-5
    assert not per_lead[[0, 2]].any()
    assert relative_error(masked.pooler_output[1], per_lead[1].double().mean(0)) < 1e-5


@pytest.mark.parametrize("kind, sizes", [("ecgfounder", ECGFOUNDER_TINY), ("clef", CLEF_TINY)])
def test_all_sizes_follow_from_the_file(kind, sizes, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        model, extractor = convert_checkpoint(kind, published(tmp_path, kind), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = {"num_leads": sizes["leads"], "embedding_size": sizes["stem"], "hidden_sizes": sizes["widths"]}
    expected |= {"depths": sizes["depths"], "bottleneck_ratio": sizes["ratio"], "group_size": sizes["group"]}
    assert {name: config[name] for name in expected} == expected
    origin = {"ecgfounder": (["heedb"], "mit"), "clef": (["mimic_iv_ecg"], "bsd-3-clause-clear")}[kind]
    assert (config["pretraining_data"], config["license"]) == origin
    norms = 1 + 3 * sum(sizes["depths"])
    assert f"left out {5 * norms} values of batch norms" in caplog.text
    kept = {name for name in net1d_weights(sizes) if "bn" not in name}
    assert len(model.state_dict()) == len(kept)
    assert extractor.leads == list(LEADS)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1


def test_the_150_statements_are_the_labels(tmp_path):
    sizes = ECGFOUNDER_TINY | {"labels": 150, "leads": 1}
    model, extractor = convert_checkpoint("ecgfounder", published(tmp_path, sizes=sizes), tmp_path / "out")
    labels = model.config.id2label
    assert len(labels) == 150
    assert (labels[0], labels[1], labels[5]) == ("ABNORMAL ECG", "NORMAL SINUS RHYTHM", "ATRIAL FIBRILLATION")
    assert (extractor.leads, extractor.normalization) == (["I"], "z_score_per_lead")
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("license: mit", "NEJM AI", "Harvard-Emory ECG Database", "classifier of 150 labels", "`heedb`"):
        assert words in card, words


BAD_FILES = {
    "clef as ecgfounder": ("clef", "ecgfounder", None, "a checkpoint of clef .*, not ecgfounder"),
    "ecgfounder as clef": ("ecgfounder", "clef", None, r"not a checkpoint of clef: no weight begins with backbone\."),
    "another model": (
        "ecgfounder",
        "ecgfounder",
        lambda weights: [weights.pop(name) for name in list(weights) if "conv3" in name],
        r"not a checkpoint of ecgfounder: it lacks stage_list\.0\.block_list\.0\.conv3.*It has \d+ weights",
    ),
    "a block is missing": (
        "ecgfounder",
        "ecgfounder",
        lambda weights: [weights.pop(name) for name in list(weights) if "stage_list.1.block_list.0." in name],
        r"it lacks stage_list\.1\.block_list\.0\.conv3",
    ),
    "a weight is missing": (
        "clef",
        "clef",
        lambda weights: weights.pop("backbone.stage_list.0.block_list.1.se_fc1.bias"),
        r"1 missing: backbone\.stage_list\.0\.block_list\.1\.se_fc1\.bias",
    ),
    "unknown weights": (
        "ecgfounder",
        "ecgfounder",
        lambda weights: weights.update(
            {"head.weight": torch.zeros(2), "stage_list.0.block_list.0.bn4.bias": torch.ones(1)}
        ),
        r"2 unknown: head\.weight, stage_list\.0\.block_list\.0\.bn4\.bias",
    ),
    "leads": (
        "clef",
        "clef",
        lambda weights: weights.update({"backbone.first_conv.conv.weight": torch.zeros(8, 3, 16)}),
        "its network reads 3 leads; expected 1",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_other_files_are_refused_by_name(case, tmp_path):
    held, asked, change, message = BAD_FILES[case]
    with pytest.raises(ValueError, match=f"file.pth: .*{message}"):
        convert_checkpoint(asked, published(tmp_path, held, change=change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_other_training_methods_save_is_left_out(tmp_path, caplog):
    def add(weights):
        weights |= {"queue": torch.zeros(4, 2), "queue_ptr": torch.zeros(1), "predictor.0.weight": torch.zeros(2, 2)}
        weights["backbone_k.first_conv.conv.bias"] = torch.zeros(8)

    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        convert_checkpoint("clef", published(tmp_path, "clef", change=add), tmp_path / "out")
    assert "left out backbone_k.first_conv.conv.bias, predictor.0.weight, queue, queue_ptr" in caplog.text


def test_numbers_of_numpy_1_are_read(tmp_path):
    """A file of NumPy 1 names its constructor of numbers differently."""
    file = published(tmp_path)
    assert b"numpy._core" in file.read_bytes()
    import zipfile

    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "old.pth", "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core", b"numpy.core"))
    model, _ = convert_checkpoint("ecgfounder", tmp_path / "old.pth", tmp_path / "out")
    assert torch.equal(model.classifier.bias, net1d_weights(ECGFOUNDER_TINY)["dense.bias"])


@pytest.fixture(scope="module")
def record(shared_data):
    """A WFDB record, and its samples `(12, 5000)` in mV, from its file: digital units, 1000 per millivolt."""
    path = shared_data / "ptb_xl" / "records500" / "06000" / "06000_hr"
    return str(path), np.fromfile(f"{path}.dat", dtype="<i2").reshape(-1, 12).T / 1000


def forwards_and_backwards(design, ecg):
    return np.stack([scipy.signal.filtfilt(*design, lead) for lead in ecg])


def ecgfounder_input(ecg):
    """The authors' preprocessing, written out."""
    ecg = forwards_and_backwards(scipy.signal.iirnotch(50, 30, 500), ecg)
    ecg = forwards_and_backwards(scipy.signal.butter(4, [0.67 / 250, 40 / 250], "bandpass"), ecg)
    ecg = ecg - np.stack([scipy.signal.medfilt(lead, 201) for lead in ecg])
    return (ecg - np.mean(ecg)) / (np.sqrt(np.mean((ecg - np.mean(ecg)) ** 2)) + 1e-8)


def test_the_input_of_ecgfounder(ecgfounder, record):
    path, ecg = record
    extractor = AutoFeatureExtractor.from_pretrained(ecgfounder[0])
    assert type(extractor) is Net1DFeatureExtractor
    np.testing.assert_allclose(extractor(path)["ecg_values"][0], ecgfounder_input(ecg), atol=1e-5)
    # An absent lead is a lead of zeros for the filters, and counts in the mean and the standard deviation.
    absent = np.where(np.arange(12)[:, None] == 4, np.nan, ecg)
    inputs = extractor(absent, sampling_rate=500)
    np.testing.assert_allclose(inputs["ecg_values"][0], ecgfounder_input(np.nan_to_num(absent)), atol=1e-5)
    assert inputs["ecg_lead_mask"][0].tolist() == [lead != "aVL" for lead in LEADS]
    # Another rate, and leads in another order, by name.
    grid = np.linspace(0, 4999, 2500)
    slow = np.stack([np.interp(np.arange(5000), grid, lead) for lead in ecg[:, ::2]])
    inputs = extractor(ecg[::-1, ::2], sampling_rate=250, lead_names=LEADS[::-1])
    np.testing.assert_allclose(inputs["ecg_values"][0], ecgfounder_input(slow), atol=1e-5)


def test_filters_are_optional(record):
    path, ecg = record
    extractor = Net1DFeatureExtractor(notch_frequency=None, band_pass=None, baseline_window=None, num_samples=2500)
    expected = (ecg - ecg.mean()) / ecg.std()  # of the whole ECG, which is cropped last
    np.testing.assert_allclose(extractor(path)["ecg_values"][0], expected[:, :2500], atol=1e-5)


def test_the_input_of_clef(clef, record):
    path, ecg = record
    extractor = AutoFeatureExtractor.from_pretrained(clef[0])

    def expected(ecg):
        ecg = forwards_and_backwards(scipy.signal.butter(5, [0.67 / 250, 40 / 250], "bandpass"), ecg)
        return (ecg - ecg.mean(1, keepdims=True)) / (ecg.std(1, keepdims=True) + 1e-8)

    # This filter amplifies rounding errors by a factor of a million million: float64 from the file on, or 1e-2 differs.
    np.testing.assert_allclose(extractor(path)["ecg_values"][0], expected(ecg), atol=1e-5)
    resampled = np.stack([scipy.signal.resample(lead, 5000) for lead in ecg[:, ::2]])
    inputs = extractor(ecg[:, ::2], sampling_rate=250)
    np.testing.assert_allclose(inputs["ecg_values"][0], expected(resampled), atol=1e-5)


def test_a_short_or_slow_ecg_is_refused():
    with pytest.raises(ValueError, match="ECG 1 of 1: the ECG is 4 s long, the model reads 10 s"):
        Net1DFeatureExtractor()(np.random.default_rng(0).normal(0, 0.3, (12, 2000)), sampling_rate=500)
    with pytest.raises(ValueError, match="notch_frequency=50 must be between 0 and half the sampling rate"):
        Net1DFeatureExtractor(sampling_rate=100, notch_frequency=50, band_pass=None)
    with pytest.raises(ValueError, match='normalization "min_max" is not one of z_score, z_score_per_lead, none'):
        Net1DFeatureExtractor(normalization="min_max")


def test_hidden_states_and_gradient_checkpointing(ecgfounder):
    model = AutoModelForSequenceClassification.from_pretrained(ecgfounder[0])
    ecg, labels = noise(2, 12, 64), torch.ones(2, 5)
    states = model(ecg, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 4, 32), (2, 4, 16), *[(2, 8, 8)] * 2, *[(2, 12, 4)] * 2]
    gradients = []
    for is_checkpointed in (False, True):
        model.train().zero_grad()
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        model(ecg, labels=labels).loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def test_the_forward_pass_is_one_graph(clef):
    model = AutoModel.from_pretrained(clef[0])
    ecg, mask = noise(2, 3, 50), torch.tensor([[True, False, True], [True, True, True]])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    expected = model(ecg, ecg_lead_mask=mask).pooler_output
    assert torch.allclose(compiled(ecg, ecg_lead_mask=mask).pooler_output, expected, atol=1e-6)


def test_new_weights_are_pytorchs():
    torch.manual_seed(0)
    model = Net1DForSequenceClassification(Net1DConfig(hidden_sizes=[64, 64], depths=[1, 1], num_labels=3))
    for weight, inputs in ((model.net1d.stem.weight, 12 * 16), (model.classifier.weight, 64)):
        bound = inputs**-0.5
        assert bound * 0.95 < weight.abs().max() <= bound


@pytest.mark.parametrize(
    "shape, keys, message",
    [
        ((2, 11, 64), {}, r"with 12 leads, got \(2, 11, 64\)"),
        ((12, 64), {}, r"shape \(batch, leads, samples\)"),
        ((2, 12, 0), {}, r"got \(2, 12, 0\)"),
        (
            (2, 12, 64),
            {"ecg_lead_mask": torch.ones(2, 3)},
            r"`ecg_lead_mask` must have the shape \(2, 12\), got \(2, 3\)",
        ),
        ((2, 12, 64), {"ecg_lead_mask": torch.zeros(2, 12)}, "an ECG without any lead"),
    ],
)
def test_what_does_not_fit_is_refused(shape, keys, message, ecgfounder):
    model = AutoModel.from_pretrained(ecgfounder[0])
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape), **keys)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"depths": [1]}, "7 stages and `depths` has 1"),
        ({"hidden_sizes": [64, 32], "depths": [1, 1]}, "must not decrease"),
        ({"hidden_sizes": [64], "depths": [1], "bottleneck_ratio": 0.4}, "25 inner channels .* into 4 groups"),
    ],
)
def test_impossible_networks_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        Net1DConfig(**fields)
