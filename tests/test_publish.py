"""Publishing: files, names and cards on the Hub, and the behaviour after a failure."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import DatasetCard, parse_eval_result_entries

from elm_hf.checkpoints.eval_results import eval_results_files
from elm_hf.checkpoints.publish import publish_model
from elm_hf.data.loading import load_elm_dataset
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.prepare.publish import publish_dataset
from elm_hf.utils.reports import REPORT_SCHEMA


NAME = "user/simulated-250-500"
# Clients do not wait between attempts.
IMPATIENT = "import time\ntime.sleep = lambda seconds: None\n"
REPORT = {
    "schema": REPORT_SCHEMA,
    "run": {"checkpoint": "elm", "dataset": NAME, "fold": "1", "split": "test"},
    "scores": {
        "all": {
            "kind": "short",
            "answers": 40,
            "conditions": {
                "ecg": {"exact_match": {"score": 0.75, "low": 0.61, "high": 0.86}},
                "zeros": {"exact_match": {"score": 0.25, "low": None, "high": None}},
            },
        },
    },
    "signal_reliance": {
        "short": {
            "metric": "exact_match",
            "score": 0.5,
            "sentence": "This model's answers depend on the ECG: difference 0.500.",
        }
    },
}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(libraries_once=True) as server:
        yield server


def report_of(hub: HubServer, code: str) -> dict:
    """Run client code whose last line of output is a report as JSON."""
    return json.loads(hub.run_client("import json\n" + code).splitlines()[-1])


def command(*arguments: object) -> str:
    """Client code that runs `elm-hf`."""
    arguments = ["elm-hf", *map(str, arguments)]
    return IMPATIENT + f"import sys\nfrom elm_hf.cli import main\nsys.argv = {arguments!r}\nmain()"


def files_of(hub: HubServer, repo_id: str, kind: str = "datasets", branch: str = "main") -> set[str]:
    return set(hub.repos[kind, repo_id].branches[branch].files) - {".gitattributes"}


def snippets(hub: HubServer, repo_id: str) -> list[str]:
    """The Python code of a published card."""
    card = hub.blob(hub.repos["datasets", repo_id].branches["main"].files["README.md"].sha256).read_text()
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.fixture(scope="module")
def published(hub: HubServer, simulated_dataset: Path) -> str:
    """The output of a publication with a busy Hub, server errors and lost connections."""
    hub.fail("POST .*/preupload/.*", 429, 1)
    hub.fail("PUT /lfs/.*", "cut", 1)
    hub.fail("POST .*/commit/.*", 500, 1)
    hub.fail("POST .*/commit/.*", "cut after", 1)
    return hub.run_client(command("publish", simulated_dataset, NAME))


@pytest.fixture(scope="module")
def more_published(hub, published, simulated_dataset, tmp_path_factory) -> dict[str, str | None]:
    """The results of further publications by repository (`again` is the first one as private): None or the error."""
    smaller = Path(shutil.copytree(simulated_dataset, tmp_path_factory.mktemp("smaller") / "smaller"))
    shutil.rmtree(smaller / "fold5")
    hub.fail(".*user/down-500-250-500/commit/.*", 500, 100)
    hub.fail(".*user/cut-250-500/commit/.*", "cut", 100)
    full = str(simulated_dataset)
    wanted = {
        NAME: (str(smaller), NAME, {"revision": "four-folds"}),
        "again": (full, NAME, {"private": True}),
        "user/secret-250-500": (full, "user/secret-250-500", {"private": True}),
        "user/ids-250-500": (full, "user/ids-250-500", {"signals": False}),
        "user/down-500-250-500": (full, "user/down-500-250-500", {}),
        "user/cut-250-500": (full, "user/cut-250-500", {}),
    }
    return report_of(
        hub,
        IMPATIENT
        + f"""
from elm_hf.prepare.publish import publish_dataset
found = {{}}
for name, (folder, repo_id, options) in {wanted!r}.items():
    try:
        publish_dataset(folder, repo_id, **options)
        found[name] = None
    except (ValueError, ConnectionError) as error:
        found[name] = str(error)
print(json.dumps(found))
""",
    )


@pytest.fixture(scope="module")
def loaded(hub, more_published, simulated_dataset, tmp_path_factory) -> dict:
    """The data that a client loads from the published datasets, with the code of their cards and by revision."""
    builds = tmp_path_factory.mktemp("builds")
    prepare_dataset("simulated_qa", builds / "fewer", seconds=2, num_recordings=20)
    prepare_dataset("simulated_qa", builds / "longer", seconds=5, num_recordings=40)
    plain, joined = snippets(hub, NAME)
    (by_ids,) = snippets(hub, "user/ids-250-500")
    return report_of(
        hub,
        f"""
import os, sys
found = {{}}
sys.modules["elm_hf"] = None
{plain}
found["plain"] = conversation["conversation_id"], ecgs[0][:, :5].tolist()
del sys.modules["elm_hf"]
{joined}
found["joined"] = train[0]["conversation_id"], ecgs[0][:, :5].tolist()
row = next(iter(load_elm_dataset(path, streaming=True)))
found["streamed"] = row["conversation_id"], row["ecgs"][0][:, :5].tolist()

from datasets import load_dataset
def error_of(*arguments, **options):
    try:
        load_elm_dataset(*arguments, **options)
    except (ValueError, OSError) as error:
        return type(error).__name__ + ": " + str(error)
found["no fold5"] = error_of("{NAME}@four-folds", fold=5)
found["fold4"] = [len(load_elm_dataset("{NAME}@four-folds", fold=4)), len(load_elm_dataset({NAME!r}, fold=5))]
found["by revision"] = len(load_dataset({NAME!r}, "fold4", split="train", revision="four-folds"))

os.chdir({str(simulated_dataset.parent)!r})
{by_ids}
found["by ids"] = [[row["conversation_id"], row["messages"], row["ecgs"][0][:, :5].tolist()] for row in train]
ids = "user/ids-250-500"
found["columns"] = [load_dataset(ids, name)["train"].column_names for name in ("records", "fold1")]
found["refused"] = [error_of(ids, records=of) for of in (None, {str(builds / "fewer")!r}, {str(builds / "longer")!r})]

found["mine"] = len(load_elm_dataset("user/secret-250-500"))
print(json.dumps(found))
""",
    )


def test_publishing_to_a_busy_hub_is_retried_and_makes_one_commit(hub, published, simulated_dataset):
    local = {path.relative_to(simulated_dataset).as_posix() for path in simulated_dataset.rglob("*") if path.is_file()}
    assert files_of(hub, NAME) == local
    assert published.startswith(f"{NAME}: {len(local)} files, ")
    refused = [request for request in hub.requests if request.endswith((" 429", " 500"))]
    assert any("/preupload/" in request for request in refused) and any("/commit/" in request for request in refused)
    commits = [request for request in hub.requests if f"{NAME}/commit/main" in request]
    # one failed commit, then a successful one whose response was lost, and no further commit
    assert [request.split()[-1] for request in commits] == ["500", "200"]


@pytest.mark.parametrize("how", ["plain", "joined", "streamed"])
def test_the_published_card_loads_the_dataset(loaded, simulated_dataset, how):
    """Its code runs unchanged, the first example without elm-hf; the stream has the same rows."""
    row = load_elm_dataset(simulated_dataset)[0]
    conversation_id, ecg = loaded[how]
    assert conversation_id == row["conversation_id"]
    np.testing.assert_allclose(ecg, row["ecgs"][0][:, :5], atol=1e-6)


def test_a_new_version_on_a_branch_deletes_obsolete_files(hub, loaded, simulated_dataset):
    def of_fold_5(branch: str) -> set[str]:
        return {name for name in files_of(hub, NAME, branch=branch) if name.startswith("fold5/")}

    assert of_fold_5("main") and not of_fold_5("four-folds")
    assert loaded["no fold5"].endswith("available: fold1, fold2, fold3, fold4")
    assert loaded["fold4"] == [len(load_elm_dataset(simulated_dataset, fold=fold)) for fold in (4, 5)]
    assert loaded["by revision"] == loaded["fold4"][0]


@pytest.mark.parametrize("repo_id", ["user/down-500-250-500", "user/cut-250-500"])
def test_after_a_failed_publication_no_file_is_visible(hub, more_published, repo_id):
    assert "No file of this version is visible on the Hub. Repeat the command later" in more_published[repo_id]
    assert files_of(hub, repo_id) == set()


def test_a_private_dataset_is_visible_to_its_owner_only(hub, more_published, loaded, simulated_dataset):
    assert hub.repos["datasets", "user/secret-250-500"].private
    assert loaded["mine"] == len(load_elm_dataset(simulated_dataset))
    with pytest.raises(
        RuntimeError, match="FileNotFoundError: user/secret-250-500: no such folder, and not found on the Hub"
    ):
        hub.run_client("""
            import os
            del os.environ["HF_TOKEN"]
            from elm_hf import load_elm_dataset
            load_elm_dataset("user/secret-250-500")
        """)
    assert more_published["again"].startswith(f"{NAME}: already exists and is public")


def test_without_signals_only_ids_and_folds_are_published(hub, more_published, loaded):
    records, conversations = loaded["columns"]
    assert {"ecg", "report", "labels", "age", "sex"}.isdisjoint(records) and "record_id" in records
    assert conversations == ["conversation_id", "ecg_index", "record_ids", "patient_ids"]
    assert {"ecg.png", "skipped.csv", "left_out.csv"}.isdisjoint(files_of(hub, "user/ids-250-500"))


def test_ids_are_joined_with_a_local_build(loaded, simulated_dataset):
    local = load_elm_dataset(simulated_dataset)
    assert len(loaded["by ids"]) == len(local)
    for (conversation_id, messages, ecg), row in zip(loaded["by ids"], local):
        assert conversation_id == row["conversation_id"] and messages == row["messages"]
        np.testing.assert_array_equal(np.array(ecg, np.float32), row["ecgs"][0][:, :5])
    without, fewer, longer = loaded["refused"]
    assert "published without signals; build the dataset from its source" in without
    assert re.search(r"fewer: \d+ of the \d+ records of user/ids-250-500 are missing", fewer)
    assert "longer: records of 1250 samples at 250 Hz; user/ids-250-500 requires 500 samples at 250 Hz" in longer


def test_a_dry_run_lists_the_files_without_requests(simulated_dataset, monkeypatch):
    monkeypatch.setattr("elm_hf.utils.hub.HfApi", None)
    publication = publish_dataset(simulated_dataset, NAME, dry_run=True)
    assert publication.url is None
    (records,) = (simulated_dataset / "records").iterdir()
    assert publication.sizes[f"records/{records.name}"] == records.stat().st_size
    assert {"README.md", "build_report.json", "ecg.png"} <= publication.sizes.keys()


@pytest.mark.parametrize(
    ("repo_id", "message"),
    {
        "user/simulated": "here 250-500; use user/simulated-250-500",
        "user/code15-500-5000": "use user/code15-250-500",
        "simulated-250-500": "the owner is missing; use user/simulated-250-500",
        "user/a b-250-500": "not the name of a repository",
    }.items(),
)
def test_names_follow_the_scheme(simulated_dataset, repo_id, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        publish_dataset(simulated_dataset, repo_id, dry_run=True)


def test_signals_with_an_unclear_licence_require_an_explicit_choice(simulated_dataset, tmp_path):
    """The simulated ECGs may be redistributed, but the instruction data of GEM have no licence."""
    unclear = Path(shutil.copytree(simulated_dataset, tmp_path / "unclear"))
    report = json.loads((unclear / "build_report.json").read_text())
    (unclear / "build_report.json").write_text(json.dumps(report | {"dataset": "ecg_grounding"}))
    with pytest.raises(ValueError, match=r"\(unknown\)\. .*--without-signals.*--with-signals"):
        publish_dataset(unclear, NAME, dry_run=True)
    assert "ecg.png" in publish_dataset(unclear, NAME, signals=True, dry_run=True).sizes
    assert "ecg.png" not in publish_dataset(unclear, NAME, signals=False, dry_run=True).sizes


def test_a_folder_without_a_build_is_not_published(tmp_path):
    with pytest.raises(ValueError, match="not a dataset built by elm-hf"):
        publish_dataset(tmp_path, NAME)


def test_a_model_is_published_with_its_results(hub, tiny_elm, tmp_path):
    checkpoint = Path(shutil.copytree(tiny_elm, tmp_path / "elm"))
    for name in ("training_args.bin", "checkpoint-5/model.safetensors", "optimizer.pt", ".secret"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes(b"left by training")
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    hub.fail("POST .*/commit/.*", 500, 1)
    hub.run_client(command("publish-model", checkpoint, "user/elm", "--evaluation", tmp_path))
    sent = files_of(hub, "user/elm", "models")
    assert {"README.md", "config.json", "model.safetensors", "modeling_elm.py"} <= sent
    results = {name for name in sent if name[0] == "."}
    assert results == {f".eval_results/{NAME.replace('/', '--')}-fold1-test.yaml"}
    assert not {name for name in sent - results if "checkpoint" in name or name.endswith((".bin", ".pt"))}
    assert len(hub.repos["models", "user/elm"].commits) == 2
    loaded = report_of(
        hub,
        """
import sys
sys.modules["elm_hf"] = None
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("user/elm", trust_remote_code=True)
card = ModelCard.load("user/elm")
results = [[r.dataset_type, r.dataset_config, r.metric_type, r.metric_value] for r in card.data.eval_results]
print(json.dumps([model.num_parameters(), results, card.text]))
""",
    )
    assert loaded[1] == [[NAME, "fold1", "exact_match", 0.75], [NAME, "fold1", "signal_reliance", 0.5]]
    assert f"| parameters | {loaded[0]:,} |" in loaded[2]
    assert "| all | 40 | Exact match | 0.750 [0.610, 0.860] | 0.250 |" in loaded[2]
    assert "This model's answers depend on the ECG" in loaded[2]
    assert "not a medical device" in loaded[2] and 'repo = "user/elm"' in loaded[2]


def test_a_folder_without_a_model_or_with_another_report_is_refused(tiny_elm, tmp_path):
    (tmp_path / "report.json").write_text('{"accuracy": 1}')
    with pytest.raises(ValueError, match="report.json: not a report of elm-hf evaluate"):
        publish_model(tiny_elm, "user/elm", [tmp_path], dry_run=True)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        publish_model(tiny_elm, "user/elm", [tmp_path / "nowhere.json"], dry_run=True)
    with pytest.raises(ValueError, match="not a checkpoint"):
        publish_model(tmp_path, "user/elm", dry_run=True)


def test_a_benchmark_has_a_task_for_each_fold(simulated_dataset, monkeypatch):
    """`eval.yaml` has the fields that the Hub documents; its tasks are those of `.eval_results/`, and are configurations."""
    sent = {}

    def keep(repo_id, kind, files, *args):
        sent.update(files)

    monkeypatch.setattr("elm_hf.prepare.publish.publish_files", keep)
    publish_dataset(simulated_dataset, NAME, benchmark=True)
    content = yaml.safe_load(sent["eval.yaml"])
    assert set(content) == {"name", "description", "evaluation_framework", "tasks"}
    assert (content["name"], content["evaluation_framework"]) == ("simulated-250-500", "elm-hf")
    configs = {entry["config_name"]: entry for entry in DatasetCard(sent["README.md"].decode()).data.configs}
    assert [task["id"] for task in content["tasks"]] == [f"fold{number}" for number in range(1, 6)]
    for task in content["tasks"]:
        assert set(task) == {"id", "config", "split"}
        splits = [file["split"] for file in configs[task["config"]]["data_files"]]
        assert task["split"] == "test" and "test" in splits
    report = REPORT | {"run": REPORT["run"] | {"dataset_on_hub": True}}
    (result,) = eval_results_files([report]).values()
    (entry,) = parse_eval_result_entries(yaml.safe_load(result))
    assert entry.dataset_id == NAME and entry.task_id in [task["id"] for task in content["tasks"]]
    sent.clear()
    publish_dataset(simulated_dataset, NAME)
    assert "eval.yaml" not in sent and "README.md" in sent
    with pytest.raises(ValueError, match="a benchmark .* needs its questions"):
        publish_dataset(simulated_dataset, NAME, signals=False, benchmark=True)
