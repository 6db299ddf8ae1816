"""The cache of a frozen encoder: the same features, logits and losses as an encoder that runs in every step."""

import pickle

import numpy as np
import pytest
import torch
from test_training import losses, train
from torch.nn import functional as F

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.ecg_table import EcgTable
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.training import encoder_cache
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.encoder_cache import cache_encoder, cache_encoders_of
from elm_hf.training.encoder_features import EncoderFeatures
from elm_hf.utils.weights import fingerprint_of_weights


@pytest.fixture(scope="module")
def cached(elm_with_encoder, simulated_dataset) -> tuple:
    model, processor = load_checkpoint(elm_with_encoder)
    return model, processor, cache_encoders_of([str(simulated_dataset)], model, processor)


def test_features_are_stored_next_to_the_dataset_and_pooled_to_the_projectors_tokens(cached, simulated_dataset):
    model, processor, features = cached
    (file,) = features.paths
    assert file.parent == simulated_dataset.with_name(f"{simulated_dataset.name}.encoder_features")
    row = load_elm_dataset(simulated_dataset)[5]
    inputs = processor.feature_extractor(list(row["ecgs"]), sampling_rate=250, return_tensors="pt")
    with torch.no_grad():
        encoded = model.model.encoder(inputs["ecg_values"]).last_hidden_state
    expected = F.adaptive_avg_pool1d(encoded.transpose(1, 2), 10).transpose(1, 2)
    assert torch.allclose(features[row["ecg_index"]], expected, atol=1e-6)
    assert torch.equal(pickle.loads(pickle.dumps(features))[[3, 1]], features[[3, 1]])


def test_logits_equal_those_of_the_running_encoder(cached, simulated_dataset):
    model, processor, features = cached
    rows = [load_elm_dataset(simulated_dataset)[index] for index in range(6)]
    running = ElmDataCollator(processor)(rows)
    read = ElmDataCollator(processor, encoder_features=features)(rows)
    assert "ecg_values" not in read and torch.equal(read["input_ids"], running["input_ids"])
    with torch.no_grad():
        assert torch.allclose(model(**read).logits, model(**running).logits, atol=1e-5)


def test_rows_of_several_datasets_are_numbered_consecutively(cached):
    _, _, features = cached
    twice = EncoderFeatures(features.paths * 2)
    assert len(twice) == 2 * len(features)
    assert torch.equal(twice[[0, len(features) + 3]], features[[0, 3]])


def test_the_encoder_runs_again_only_if_its_weights_change(cached, simulated_dataset):
    model, processor, features = cached
    runs = []
    hook = model.model.encoder.register_forward_hook(lambda *_: runs.append(1))
    assert cache_encoder(str(simulated_dataset), model, processor) == features.paths[0] and not runs
    weight = next(model.model.encoder.parameters())
    weight.data[0] += 1
    other = cache_encoder(str(simulated_dataset), model, processor)
    weight.data[0] -= 1
    hook.remove()
    assert other != features.paths[0] and runs
    assert not list(other.parent.glob("*.unfinished"))


def test_half_precision_features_are_stored_without_loss(cached, elm_with_encoder, simulated_dataset, monkeypatch):
    few = load_records(simulated_dataset).select(range(3))  # bfloat16 convolutions are slow on a CPU
    monkeypatch.setattr(encoder_cache, "load_records", lambda path: few)
    model, processor = load_checkpoint(elm_with_encoder, dtype="bfloat16")
    features = cache_encoders_of([str(simulated_dataset)], model, processor)
    assert len(features) == 3 and features[[0]].dtype == torch.bfloat16
    ecgs = [EcgTable(few)[row] for row in range(3)]
    inputs = processor.feature_extractor(ecgs, sampling_rate=250, return_tensors="pt")
    with torch.no_grad():
        encoded = model.model.encoder(**inputs).last_hidden_state
    expected = F.adaptive_avg_pool1d(encoded.transpose(1, 2), 10).transpose(1, 2)
    assert torch.equal(features[[0, 2]], expected[[0, 2]])
    assert torch.allclose(features[[0, 2]].float(), cached[2][[0, 2]], atol=0.05, rtol=2**-7)  # a step of bfloat16


def test_losses_equal_those_of_the_running_encoder(elm_with_encoder, simulated_dataset, tmp_path):
    settings = ("--trainable", "projector", "llm", "--save_strategy", "steps", "--save_steps", "4", "--bf16", "false")
    running = train(elm_with_encoder, simulated_dataset, tmp_path / "running", *settings)
    read = train(elm_with_encoder, simulated_dataset, tmp_path / "read", *settings, "--cache_encoder")
    assert losses(read / "checkpoint-4") == pytest.approx(losses(running / "checkpoint-4"), abs=1e-4)


def test_a_trainable_encoder_is_not_cached():
    with pytest.raises(ValueError, match="--cache_encoder needs a frozen encoder, but encoder is in --trainable"):
        ElmScriptArguments(dataset=["d"], cache_encoder=True)


def test_augmented_ecgs_are_not_cached(elm_with_encoder, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match="--cache_encoder runs the encoder once, and augmentation changes the ECGs"):
        train(
            elm_with_encoder,
            simulated_dataset,
            tmp_path / "out",
            *("--cache_encoder", "--trainable", "projector", "--noise", "0.1"),
        )


def test_a_model_without_an_encoder_is_refused(tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match="this model has none"):
        train(tiny_elm, simulated_dataset, tmp_path / "out", "--cache_encoder", "--trainable", "projector")


@pytest.mark.parametrize("sampled", [True, False])
def test_trained_weights_have_another_fingerprint(sampled):
    weights = {
        "a": torch.arange(10_000.0).reshape(100, 100),
        "steps": torch.tensor(3),
        "half": torch.ones(5).bfloat16(),
    }
    fingerprint = fingerprint_of_weights(weights, sampled=sampled)
    assert fingerprint == fingerprint_of_weights(dict(reversed(weights.items())), sampled=sampled)
    changes = [{"a": weights["a"] + 1e-3}, {"steps": torch.tensor(4)}, {"a": weights["a"].T}, {"half": torch.ones(5)}]
    assert fingerprint not in {fingerprint_of_weights(weights | change, sampled=sampled) for change in changes}


def test_a_single_changed_value_shows_where_all_are_read():
    weights = torch.zeros(4096)
    changed = torch.from_numpy(np.eye(1, 4096, 1, dtype=np.float32)[0])  # sampled are values 0, 4, 8, ...
    full, sampled = ([fingerprint_of_weights({"a": w}, sampled=s) for w in (weights, changed)] for s in (False, True))
    assert full[0] != full[1] and sampled[0] == sampled[1]
