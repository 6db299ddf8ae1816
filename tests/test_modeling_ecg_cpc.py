"""ECG-CPC: parity with systems that are run token by token, the published file, preprocessing."""

import json
import logging
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from reference_encoders import relative_error
from reference_foundation_encoders import CPC_TINY, cpc, cpc_weights, noise
from transformers import AutoFeatureExtractor, AutoModel

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.modeling.configuration_ecg_cpc import EcgCpcConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg_cpc import EcgCpcFeatureExtractor
from elm_hf.modeling.modeling_ecg_cpc import EcgCpcForSequenceClassification, EcgCpcModel, hippo_system


def published(folder, change=None, settings=None):
    """A file in the format of the published one; `settings` are the objects of its project."""
    weights = cpc_weights(CPC_TINY)
    if change is not None:
        change(weights)
    weights["ts_encoder.head_ssl.proj.0.weight"] = torch.zeros(6, 6)
    rest = {"epoch": 3, "global_step": 9, "hyper_parameters": settings, "pytorch-lightning_version": "2.1"}
    torch.save({"state_dict": weights} | rest, folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folder of a converted checkpoint, and the published weights."""
    folder = tmp_path_factory.mktemp("ecg_cpc")
    convert_checkpoint("ecg_cpc", published(folder), folder / "out")
    return folder / "out", cpc_weights(CPC_TINY)


def test_parameters_of_the_published_model():
    with torch.device("meta"):
        model = EcgCpcModel(EcgCpcConfig())
    assert model.num_parameters() == 2_932_736
    nodes = 4 * 2 * 601 * 2  # in the published file only
    assert sum(weight.numel() for weight in model.state_dict().values()) + nodes == 3_014_036


@pytest.mark.parametrize("samples", [30, 75, 1])  # 15 and 38 tokens: less and more than the 20 of `kernel_length`
def test_the_encoder_agrees_with_the_formulas(samples, converted):
    folder, weights = converted
    model, ecg = AutoModel.from_pretrained(folder), noise(2, 12, samples)
    with torch.no_grad():
        outputs = model(ecg)
    tokens = cpc(weights, ecg, CPC_TINY)
    assert outputs.last_hidden_state.shape == (2, (samples - 1) // 2 + 1, 6)
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(outputs.pooler_output, tokens.mean(1)) < 1e-5


def test_the_response_agrees_with_its_generating_function(converted):
    """The sum of `response[l] omega^l` over the stored length, at roots of unity, by the Woodbury identity."""
    model, weights = AutoModel.from_pretrained(converted[0]), converted[1]
    length, name = 20, "ts_encoder.predictor.predictor.s4_layers.1.kernel.kernel"
    found = torch.fft.fft(model.layers[1].state_space.kernel(length).detach().double())[:, : length // 2]
    parts = {part: weights[f"{name}.{part}"].double().reshape(6, 3, 2) for part in ("w", "B", "P", "Q", "C")}
    w, b, p, q, c = (torch.complex(*part.unbind(-1)) for part in parts.values())
    step = weights[f"{name}.log_dt"].double().exp()[:, None]
    for node in range(length // 2):
        omega = complex(math.cos(2 * math.pi * node / length), -math.sin(2 * math.pi * node / length))
        z = 2 * (1 - omega) / (1 + omega)

        def resolvent(left, right):
            pair = left * right / (z - w * step) + (left * right).conj() / (z - w.conj() * step)  # noqa: B023
            return (step * pair).sum(dim=1)

        value = resolvent(c, b) - resolvent(c, p) * resolvent(q, b) / (1 + resolvent(q, p))
        assert torch.allclose(found[:, node], value * 2 / (1 + omega), rtol=1e-4, atol=1e-5)


def test_tokens_depend_on_no_later_sample(converted):
    model, ecg = AutoModel.from_pretrained(converted[0]), noise(1, 12, 60)
    other = ecg.clone()
    other[..., 41:] = 0  # token 20 is the last one that sees sample 41
    with torch.no_grad():
        tokens, changed = model(ecg).last_hidden_state, model(other).last_hidden_state
    assert torch.allclose(tokens[:, :20], changed[:, :20], atol=1e-5)
    assert not torch.allclose(tokens[:, 20], changed[:, 20], atol=1e-3)


def test_absent_leads_are_zeros(converted):
    folder, weights = converted
    ecg, mask = noise(2, 12, 30), torch.ones(2, 12, dtype=torch.bool)
    mask[1, 2:] = False
    with torch.no_grad():
        outputs = AutoModel.from_pretrained(folder)(
            ecg.masked_fill(~mask[..., None], float("nan")), ecg_lead_mask=mask
        )
    assert relative_error(outputs.last_hidden_state, cpc(weights, ecg * mask[..., None], CPC_TINY)) < 1e-5


def test_all_sizes_follow_from_the_file(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        convert_checkpoint("ecg_cpc", published(tmp_path), tmp_path / "out")
    assert "left out head_ssl.proj.0.weight, which only pre-training uses" in caplog.text
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = {"num_leads": 12, "hidden_size": 6, "num_conv_layers": 3, "num_hidden_layers": 2, "state_size": 6}
    expected |= {"kernel_length": 20, "license": "cc-by-4.0", "pretraining_data": ["heedb"]}
    assert {name: config[name] for name in expected} == expected
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("license: cc-by-4.0", "arXiv:2509.25095", "2400 samples at 240 Hz (10 s)"):
        assert words in card, words


def test_rows_that_share_memory_are_saved(tmp_path):
    name = "ts_encoder.predictor.predictor.s4_layers.0.kernel.kernel.w"

    def share(weights):
        weights[name] = weights[name][:1].expand(6, 3, 2)

    convert_checkpoint("ecg_cpc", published(tmp_path, share), tmp_path / "out")
    saved = AutoModel.from_pretrained(tmp_path / "out").layers[0].state_space.diagonal
    assert torch.equal(saved, cpc_weights(CPC_TINY)[name][:1].expand(6, 3, 2))


def foreign(monkeypatch, module: str, name: str) -> object:
    """An object of a class of a module that is gone when the file is read."""
    found = type(name, (), {"__module__": module})
    package = ModuleType(module)
    setattr(package, name, found)
    monkeypatch.setitem(sys.modules, module.split(".")[0], ModuleType(module.split(".")[0]))
    monkeypatch.setitem(sys.modules, module, package)
    made = found()
    made.rate = 240
    return made


def test_settings_of_other_packages_are_not_read(tmp_path, monkeypatch, converted):
    with monkeypatch.context() as patch:
        settings = {
            "config": foreign(patch, "clinical_ts.ts_encoder", "S4Config"),
            "other": foreign(patch, "omegaconf.dictconfig", "DictConfig"),
            "types": [float, list],
        }
        path = published(tmp_path, settings=settings)
    assert "clinical_ts" not in sys.modules and "omegaconf" not in sys.modules
    model, _ = convert_checkpoint("ecg_cpc", path, tmp_path / "out")
    expected = AutoModel.from_pretrained(converted[0]).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("module, name", [("clinical_ts.models", "Runner"), ("other.config", "S4Config")])
def test_other_classes_are_refused(module, name, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        path = published(tmp_path, settings=foreign(patch, module, name))
    with pytest.raises(ValueError, match=rf"refused, nothing was executed: it wants to import {module}.{name}"):
        convert_checkpoint("ecg_cpc", path, tmp_path / "out")


S4 = "ts_encoder.predictor.predictor.s4_layers"
BAD_FILES = {
    "another model": (
        lambda weights: weights.pop(f"{S4}.0.kernel.kernel.C"),
        r"not a checkpoint of ecg_cpc: it lacks predictor\.predictor\.s4_layers\.0\.kernel\.kernel\.C",
    ),
    "missing": (lambda weights: weights.pop(f"{S4}.1.D"), r"1 missing: predictor\.predictor\.s4_layers\.1\.D"),
    "unknown": (
        lambda weights: weights.update({f"{S4}.0.kernel.kernel.A": torch.zeros(2)}),
        r"1 unknown: .*kernel\.A",
    ),
    "nodes": (
        lambda weights: weights.update({f"{S4}.1.kernel.kernel.omega": torch.zeros(151, 2)}),
        r"have \[11, 151\] nodes",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_other_files_are_refused(case, tmp_path):
    change, message = BAD_FILES[case]
    with pytest.raises(ValueError, match=f"last.ckpt: .*{message}"):
        convert_checkpoint("ecg_cpc", published(tmp_path, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def interpolated(lead: np.ndarray, rate: int) -> np.ndarray:
    """A lead at 240 Hz: each new sample as a sum over all old ones, weighted with a windowed sinc."""
    ratio = 240 / rate
    scale = min(1, ratio)
    old, new = np.arange(len(lead)), np.arange(int(len(lead) * ratio)) / ratio
    distance = scale * np.abs(new[:, None] - old)
    weights, inside = np.zeros_like(distance), distance <= 50  # the window is 0 elsewhere
    distance = distance[inside]
    window = np.i0(12.984585183 * np.sqrt(1 - (distance / 50) ** 2)) / np.i0(12.984585183)
    weights[inside] = scale * 0.9173473712608761 * np.sinc(0.9173473712608761 * distance) * window
    return weights @ lead


@pytest.mark.parametrize("rate", [500, 250, 100])
def test_the_preprocessing(rate, tmp_path, shared_data):
    EcgCpcFeatureExtractor().save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    path = shared_data / "ptb_xl" / "records500" / "06000" / "06000_hr"
    ecg = np.fromfile(f"{path}.dat", dtype="<i2").reshape(-1, 12).T[:, :: 500 // rate] / 1000
    ecg[4] = np.nan
    inputs = extractor(ecg[::-1], sampling_rate=rate, lead_names=LEADS[::-1])
    assert inputs["ecg_values"].shape == (1, 12, 2400)
    assert np.flatnonzero(~inputs["ecg_lead_mask"][0]).tolist() == [4] and not inputs["ecg_values"][0, 4].any()
    for lead in (0, 9):
        # The filter is read from a table with steps of whole entries, here from the formula.
        np.testing.assert_allclose(inputs["ecg_values"][0, lead], interpolated(ecg[lead], rate), atol=1e-4)


def test_the_models_rate_is_kept_and_short_ecgs_are_refused():
    ecg = np.random.default_rng(0).normal(0, 0.3, (12, 2500))
    inputs = EcgCpcFeatureExtractor()(ecg, sampling_rate=240)
    np.testing.assert_array_equal(inputs["ecg_values"][0], ecg[:, :2400].astype(np.float32))
    with pytest.raises(ValueError, match="5 s long, the model reads 10 s"):
        EcgCpcFeatureExtractor()(ecg, sampling_rate=500)
    with pytest.raises(ValueError, match='resampling "fft" is not one of sinc'):
        EcgCpcFeatureExtractor(resampling="fft")


def test_hidden_states_and_gradient_checkpointing(converted):
    model = EcgCpcForSequenceClassification(EcgCpcConfig.from_pretrained(converted[0], num_labels=3))
    ecg, labels, gradients = noise(2, 12, 40), torch.tensor([0, 2]), []
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
        states = model.eval()(ecg, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 20, 6)] * 3


def test_the_system_of_a_new_layer_is_hippo():
    """In the basis of its normal part: the eigenvalues of HiPPO-LegS are -1, -2, …, and its first moments are kept."""
    diagonal, low_rank, inputs = (torch.cat([part, part.conj()]) for part in hippo_system(6))
    matrix = torch.diag(diagonal) - torch.outer(low_rank, low_rank.conj())
    eigenvalues = torch.linalg.eigvals(matrix)
    assert torch.allclose(eigenvalues.real.sort().values, torch.arange(-6.0, 0).double(), atol=1e-8)
    assert eigenvalues.imag.abs().max() < 1e-8
    # Products that no change of the basis alters: inputs with themselves and through the matrix.
    assert torch.allclose((inputs.conj() @ inputs).real, torch.tensor(36.0).double())  # 1 + 3 + 5 + … + 11
    scale = torch.tensor([1.0, 3, 5, 7, 9, 11]).double().sqrt()
    legs = -torch.tril(torch.outer(scale, scale), -1) - torch.diag(torch.arange(1.0, 7).double())
    assert torch.allclose((inputs.conj() @ matrix @ inputs).real, scale @ legs @ scale)


def test_half_precision_stays_close(converted):
    ecg = noise(1, 12, 60)
    model = AutoModel.from_pretrained(converted[0])
    with torch.no_grad():
        expected = model(ecg).last_hidden_state
        found = model.bfloat16()(ecg.bfloat16()).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() / expected.norm() < 0.05


@pytest.mark.parametrize(
    "shape, mask, message",
    [
        ((1, 8, 60), None, r"\(batch, 12 leads, samples\), got \(1, 8, 60\)"),
        ((1, 12, 0), None, r"got \(1, 12, 0\)"),
        ((1, 12, 60), torch.zeros(1, 12), "an ECG without any lead"),
        ((1, 12, 60), torch.ones(12), r"shape \(1, 12\), got \(12,\)"),
    ],
)
def test_what_does_not_fit_is_refused(shape, mask, message, converted):
    model = AutoModel.from_pretrained(converted[0])
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape), ecg_lead_mask=mask)
