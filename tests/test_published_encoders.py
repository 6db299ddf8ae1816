"""ELMs with the encoders of other projects: their preprocessing, licences, and warnings about what they were trained on."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LLM
from test_compositions import FOUNDATION_ENCODERS
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

from elm_hf.checkpoints.card import model_card
from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.preprocessing import FEATURE_EXTRACTORS
from elm_hf.checkpoints.publish import publish_model
from elm_hf.checkpoints.published_encoders import CLEF, ECG_COCA, HUBERT_ECG, encoder_card
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.pretrain.encoder import load_classifier
from elm_hf.utils.encoder_origin import known_sources


# Where the preprocessing of an encoder has other leads or another rate than the ECGs of `test_compositions`.
OWN_SIZES = {"ecg_jepa": {"num_leads": 8}, "ecg_coca": {"num_samples": 1000}}


def save_encoder(folder: Path, name: str, **fields) -> Path:
    """A checkpoint as `elm-hf convert` makes it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**FOUNDATION_ENCODERS[name] | OWN_SIZES.get(name, {}), **fields)
    AutoModel.from_config(config).save_pretrained(folder / name)
    FEATURE_EXTRACTORS[config.model_type](config).save_pretrained(folder / name)
    return folder / name


@pytest.fixture
def create(simulated_dataset, tmp_path):
    """Creates an ELM with an encoder that reads ECGs of 2 s, and loads it."""

    def create(encoder: Path, **settings):
        (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM}))
        create_elm(
            tmp_path / "elm",
            config=tmp_path / "elm.json",
            encoder=str(encoder),
            tokenizer_dataset=str(simulated_dataset),
            vocab_size=400,
            num_ecg_tokens=5,
            seconds=2,
            **settings,
        )
        return load_checkpoint(tmp_path / "elm")

    return create


@pytest.mark.parametrize("name", FOUNDATION_ENCODERS)
def test_an_elm_keeps_the_preprocessing_and_the_tokens_of_its_encoder(name, create, simulated_dataset, tmp_path):
    encoder = save_encoder(tmp_path, name)
    model, processor = create(encoder)
    own = AutoFeatureExtractor.from_pretrained(encoder)
    found, expected = processor.feature_extractor.to_dict(), own.to_dict()
    assert type(processor.feature_extractor) is type(own)
    assert found.pop("num_samples") == 2 * own.sampling_rate
    assert all(found[key] == value for key, value in expected.items() if key not in ("num_samples", "auto_map"))
    ecg = load_elm_dataset(simulated_dataset)[0]["ecgs"][0]
    inputs = processor.feature_extractor(ecg, sampling_rate=250, lead_names=list(LEADS), return_tensors="pt")
    with torch.no_grad():
        tokens = model.model.encoder(**inputs).last_hidden_state
        again = AutoModel.from_pretrained(encoder)(**inputs).last_hidden_state
    assert torch.allclose(tokens, again, atol=1e-6) and tokens.std() > 0


def test_a_licence_without_commercial_use_is_told(create, tmp_path, caplog):
    encoder = save_encoder(tmp_path, "hubert_ecg", license=HUBERT_ECG.license)
    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        create(encoder)
    (message,) = [record.getMessage() for record in caplog.records if "licence" in record.getMessage()]
    assert message.startswith(f"{encoder}: the licence of its weights, cc-by-nc-4.0, does not permit commercial use")


def test_the_card_of_an_elm_names_the_licence_and_data_of_its_encoder(create, tmp_path):
    fields = {"license": HUBERT_ECG.license, "pretraining_data": ["ptb_xl", "code15"]}
    create(save_encoder(tmp_path, "hubert_ecg", **fields))
    card = model_card(tmp_path / "elm", "someone/elm", None, [])
    assert card.data.license == "cc-by-nc-4.0"
    assert "| licence of the encoder's weights | `cc-by-nc-4.0` |\n" in card.text
    assert "| datasets that the encoder was trained on before | ptb_xl, code15 |\n| projector | mlp |" in card.text


def test_a_classifier_of_other_classes_keeps_the_encoder(tmp_path):
    config = AutoConfig.for_model(**FOUNDATION_ENCODERS["net1d"], id2label={0: "AF", 1: "normal", 2: "PVC"})
    published = AutoModelForSequenceClassification.from_config(config)
    published.save_pretrained(tmp_path)
    same, other = (load_classifier(str(tmp_path), classes) for classes in (["AF", "normal", "PVC"], ["MI", "normal"]))
    for name, weight in published.state_dict().items():
        assert torch.equal(same.state_dict()[name], weight)
        assert name.startswith("classifier.") or torch.equal(other.state_dict()[name], weight)
    assert other.classifier.out_features == 2 and other.config.id2label == {0: "MI", 1: "normal"}


def test_a_model_with_weights_without_a_licence_is_not_published(create, tmp_path, caplog):
    encoder = save_encoder(tmp_path, "ecg_coca", license=ECG_COCA.license)
    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        create(encoder)
    assert f"{encoder}: no licence is stated for its weights" in caplog.text
    with pytest.raises(ValueError, match="config.json: has the weights of ecg_coca, for which no licence is stated"):
        publish_model(tmp_path / "elm", "someone/elm", dry_run=True)


def test_a_network_of_single_leads_reads_the_leads_that_are_chosen(create, simulated_dataset, tmp_path):
    fields = FOUNDATION_ENCODERS["net1d"] | {"num_leads": 1}
    config = AutoConfig.for_model(**fields)
    AutoModel.from_config(config).save_pretrained(tmp_path / "clef")
    FEATURE_EXTRACTORS["net1d"](config).save_pretrained(tmp_path / "clef")
    model, processor = create(tmp_path / "clef", leads=["i", "v2"])
    assert (processor.feature_extractor.leads, model.config.num_leads) == (["I", "V2"], 2)
    ecg = load_elm_dataset(simulated_dataset)[0]["ecgs"][0]
    inputs = processor.feature_extractor(ecg, sampling_rate=250, lead_names=list(LEADS))
    assert inputs["ecg_values"].shape == (1, 2, 1000)
    single = processor.feature_extractor(ecg[[0, 7]], sampling_rate=250)["ecg_values"]
    np.testing.assert_array_equal(inputs["ecg_values"], single)


def test_an_evaluation_on_the_encoders_training_data_says_so(create, simulated_dataset, tmp_path, caplog):
    source = load_records(simulated_dataset)[0]["source"]
    create(save_encoder(tmp_path, "net1d", pretraining_data=["mimic_iv_ecg", source]))
    with caplog.at_level(logging.WARNING, logger="elm_hf"):
        report = evaluate(
            tmp_path / "elm",
            simulated_dataset,
            conditions=("ecg",),
            limit=2,
            num_occlusions=0,
            max_new_tokens=2,
            output=tmp_path / "report",
            quiet=True,
        )
    message = f"the encoder was trained on {source} before it was published, with the test patients of every fold"
    assert message in caplog.text
    assert any(message in note for note in report["notes"])
    assert message[1:] in (tmp_path / "report" / "report.md").read_text()  # with a capital letter


def test_only_datasets_of_the_ecgs_are_known():
    config = AutoConfig.for_model("ecg_fm", pretraining_data=["ptb_xl", "georgia"])
    assert known_sources(config, ["georgia", "chapman", "ptb_xl"]) == ["georgia", "ptb_xl"]
    assert known_sources(config, ["chapman"]) == []
    assert known_sources(AutoConfig.for_model("ecg_resnet"), ["ptb_xl"]) == []
    assert known_sources(None, ["ptb_xl"]) == []


def test_the_card_of_an_encoder(tmp_path):
    folder = save_encoder(tmp_path, "net1d")
    model, extractor = AutoModel.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)
    card = encoder_card("clef-small", CLEF, model, extractor)
    assert card.data.license == "bsd-3-clause-clear"
    for words in ("grants no patent licence", "arXiv:2512.02180", "`mimic_iv_ecg`", "5000 samples at 500 Hz (10 s)"):
        assert words in card.content, words
    assert "AutoModelForSequenceClassification" not in card.content  # it has no classifier
