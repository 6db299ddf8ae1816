"""Model cards: origin, licence, language and results; written by every way to save or push, and without local paths."""

import json
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard, parse_eval_result_entries
from test_publish import NAME, REPORT
from transformers import AutoConfig, AutoProcessor

from elm_hf.checkpoints.card import TRAINING_NAME, model_card
from elm_hf.checkpoints.eval_results import eval_results_files
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.publish import publish_model
from elm_hf.data.loading import languages_of, load_elm_dataset
from elm_hf.utils.hub import licence_of


TRAINED = {
    "is_adapter": False,
    "base_model": "elm",
    "base_model_on_hub": False,
    "encoder_license": None,
    "repositories": ["org/llm", "org/encoder"],
    "license": "other",
    "license_name": "llm-licence",
    "license_link": "https://example.org/licence",
    "languages": ["en"],
    "llm": "qwen2",
    "num_parameters": 10,
    "num_trained": 5,
    "datasets": ["questions"],
}


def metadata(tmp_path: Path, training: dict | None, **options) -> dict:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "user/base"}')
    return model_card(tmp_path, "user/elm", training, [], **options).data.to_dict()


@pytest.mark.parametrize(
    ("changes", "base", "relation"),
    [
        ({}, ["org/llm", "org/encoder"], "finetune"),
        ({"base_model": "user/elm", "base_model_on_hub": True}, ["user/elm"], "finetune"),
        ({"is_adapter": True, "base_model": "user/elm", "base_model_on_hub": True}, ["user/elm"], "adapter"),
        ({"merged_adapter": "user/adapter"}, ["org/llm", "org/encoder", "user/adapter"], "merge"),
        ({"merged_adapter": None, "base_model": "user/elm", "base_model_on_hub": True}, ["user/elm"], "merge"),
        ({"repositories": []}, None, None),
    ],
)
def test_the_card_names_what_the_model_was_made_of(changes, base, relation, tmp_path):
    data = metadata(tmp_path, TRAINED | changes)
    assert data.get("base_model") == base and data.get("base_model_relation") == relation
    assert data["pipeline_tag"] == "any-to-any" and data["language"] == ["en"]


def test_the_licence_is_that_of_the_llm_unless_the_encoder_or_the_user_say_otherwise(tmp_path):
    data = metadata(tmp_path, TRAINED)
    assert (data["license"], data["license_name"]) == ("other", "llm-licence")
    data = metadata(tmp_path, TRAINED | {"encoder_license": "cc-by-nc-4.0"})
    assert data["license"] == "cc-by-nc-4.0" and "license_name" not in data
    data = metadata(tmp_path, TRAINED, license="mit")
    assert data["license"] == "mit" and "license_link" not in data


def test_results_on_a_local_dataset_are_in_no_file_of_results():
    run = {"dataset": "outputs/data", "fold": "1", "split": "test"}
    assert eval_results_files([REPORT | {"run": run | {"dataset_on_hub": False}}]) == {}
    assert eval_results_files([REPORT | {"run": run | {"dataset": "data"}}]) == {}  # a report of an earlier version


def test_results_are_written_in_the_hubs_current_format():
    revision = "5503434ddd753f426f4b38109466949a1217c2bb"
    report = REPORT | {"run": REPORT["run"] | {"dataset": f"{NAME}@{revision}", "dataset_on_hub": True}}
    ((path, content),) = eval_results_files([report]).items()
    assert path == f".eval_results/{NAME.replace('/', '--')}-fold1-test.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(content))
    assert (entry.dataset_id, entry.task_id, entry.value) == (NAME, "fold1", 0.75)
    assert entry.dataset_revision == revision
    assert "exact_match of 40 answers, test split" in entry.notes and "0.250 (zeros)" in entry.notes


def test_a_new_model_has_the_licence_of_its_llms_card(tiny_elm, tmp_path):
    assert licence_of(str(tiny_elm)) == {}
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n# LLM\n")
    assert licence_of(str(tmp_path)) == {"license": "other", "license_name": "own", "license_link": "LICENSE"}


def test_the_language_is_that_of_the_conversations(simulated_dataset):
    assert languages_of(load_elm_dataset(simulated_dataset, 1, "train")) == ["en"]


def test_saving_writes_the_card_and_keeps_one_that_is_there(tiny_elm, tmp_path):
    assert "# elm\n" in (tiny_elm / "README.md").read_text()
    model, processor = load_checkpoint(tiny_elm)
    processor.save_pretrained(tmp_path / "one")
    assert "There is no model in this repository yet." in (tmp_path / "one" / "README.md").read_text()
    model.save_pretrained(tmp_path / "one")
    text = (tmp_path / "one" / "README.md").read_text()
    assert f"| parameters | {model.num_parameters():,} |" in text and "no model in this" not in text
    (tmp_path / "one" / "README.md").write_text("mine")
    model.save_pretrained(tmp_path / "one")
    assert (tmp_path / "one" / "README.md").read_text() == "mine"


def test_pushing_a_model_and_a_processor_writes_the_card_not_the_empty_template(tiny_elm):
    with HubServer() as hub:
        said = hub.run_client(f"""
            import json
            from huggingface_hub import HfApi, ModelCard
            from elm_hf import load_checkpoint

            model, processor = load_checkpoint({str(tiny_elm)!r})
            model.config.text_config.name_or_path, model.config.license = "org/llm", "apache-2.0"
            processor.push_to_hub("user/a")
            before = ModelCard.load("user/a").text
            model.push_to_hub("user/a")
            HfApi().create_repo("user/b")
            HfApi().upload_file(path_or_fileobj=b"# Mine", path_in_repo="README.md", repo_id="user/b")
            model.push_to_hub("user/b")
            model.save_pretrained("c", push_to_hub=True, repo_id="user/c")
            processor.push_to_hub("user/c")
            cards = {{name: ModelCard.load(f"user/{{name}}") for name in "abc"}}
            print(json.dumps([before, cards["a"].data.to_dict(), *(cards[name].text for name in "abc")]))
        """)
    before, data, *texts = json.loads(said.splitlines()[-1])
    assert "There is no model in this repository yet." in before
    assert data["base_model"] == ["org/llm"] and data["base_model_relation"] == "finetune"
    assert (data["license"], data["pipeline_tag"]) == ("apache-2.0", "any-to-any") and "elm-hf" in data["tags"]
    assert 'repo = "user/a"' in texts[0] and "| LLM | qwen2 |" in texts[0]
    assert texts[1].strip() == "# Mine"
    assert 'repo = "user/c"' in texts[2] and "| LLM | qwen2 |" in texts[2]


def test_a_published_model_has_the_licence_that_was_chosen(tiny_elm, tmp_path):
    config = AutoConfig.from_pretrained(tiny_elm)
    assert config.license is None
    publication = publish_model(tiny_elm, "user/elm", dry_run=True, license="mit")
    assert "README.md" in publication.sizes
    assert AutoProcessor.from_pretrained(tiny_elm).tokenizer.padding_side == "left"
    assert not (tiny_elm / TRAINING_NAME).exists()
    assert ModelCard.load(tiny_elm / "README.md").data.license is None
