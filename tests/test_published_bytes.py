"""Nothing that is published names the publisher's machine: one of each kind is published, and all its bytes are searched."""

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TINY_LLM
from hub_server import HubServer
from huggingface_hub import ModelCard
from test_ecgfolder import describe, ecg, row
from test_pretrain import ENCODERS
from test_publish import REPORT

from elm_hf.training.checks import check_arguments
from elm_hf.training.sft import parse


USER, HOST = "annegretpublisher", "host-of-annegret"
# Runs in a process of its own. The folders, the user and the host have names that are found nowhere else.
PUBLISH = """
    import json, os, platform, socket, sys
    from pathlib import Path

    home = Path({home!r})
    os.environ |= dict(HOME=str(home), USER={user!r}, LOGNAME={user!r}, HOSTNAME={host!r})
    socket.gethostname = platform.node = lambda: {host!r}
    os.chdir(home)

    from elm_hf import load_checkpoint, publish_model
    from elm_hf.checkpoints.create import create_elm
    from elm_hf.evaluation.card import update_card
    from elm_hf.prepare.dataset import prepare_dataset
    from elm_hf.prepare.publish import publish_dataset
    from elm_hf.pretrain.__main__ import main as pretrain
    from elm_hf.training.sft import main as train
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    # A dataset of own data, with an unreadable file.
    options = dict(source=home / "ecgs", seconds=2, num_folds=2, max_skipped=0.5, license="cc-by-4.0")
    prepare_dataset("ecgfolder", home / "mine", key=home / "clinic.key", **options)
    publish_dataset(home / "mine", "user/mine-250-500")

    # A trained encoder and a trained model, pushed with each checkpoint.
    both = ["--dataset", str(home / "mine"), "--max_steps", "1", "--save_steps", "1", "--use_cpu", "--disable_tqdm", "true"]
    both += ["--report_to", "none", "--per_device_train_batch_size", "2", "--hub_token", "hf_test"]
    pretrain([*both, "--encoder", "st_mem", "--encoder_config", str(home / "st_mem.json"), "--output_dir", str(home / "encoder"),
              "--push_to_hub", "--hub_model_id", "user/encoder"])
    publish_model(home / "encoder", "user/encoder-again", license="mit")

    # A model of a local LLM and a local encoder.
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{llm!r}, vocab_size=400))
    llm.save_pretrained(home / "llm")
    AutoTokenizer.from_pretrained(home / "elm").save_pretrained(home / "llm")
    create_elm(home / "composed", llm=str(home / "llm"), encoder=str(home / "encoder"))
    assert str(home) not in Path("composed/config.json").read_text()
    config = json.loads(Path("composed/config.json").read_text())
    config["text_config"]["_name_or_path"] = str(home / "llm")  # as checkpoints of earlier versions have it
    Path("composed/config.json").write_text(json.dumps(config))
    publish_model(home / "composed", "user/composed")

    config = json.loads(Path("elm/config.json").read_text())
    config["text_config"]["_name_or_path"] = str(home / "llm")
    Path("elm/config.json").write_text(json.dumps(config))
    (home / "trained" / "runs").mkdir(parents=True)
    (home / "trained" / "runs" / "events.out.tfevents.1.{host}").write_text(str(home))
    train([*both, "--model_name_or_path", str(home / "elm"), "--output_dir", str(home / "trained"), "--push_to_hub",
           "--hub_model_id", "user/trained"])

    # An adapter.
    model, processor = load_checkpoint(home / "trained")
    adapted = get_peft_model(model, LoraConfig(target_modules=r".*language_model.*q_proj", task_type="CAUSAL_LM"))
    for part in (adapted, processor):
        part.save_pretrained("adapter")
    assert str(home) in Path("adapter/adapter_config.json").read_text()
    publish_model(home / "adapter", "user/adapter", base="user/trained")

    # A model with an evaluation in its folder, and a checkpoint with the state of its training.
    (home / "trained" / "report").mkdir()
    report = {report!r}
    Path("trained/report/report.json").write_text(json.dumps(report | dict(run=report["run"] | dict(dataset=str(home / "mine")))))
    Path("trained/report/predictions.parquet").write_bytes(b"")
    update_card(home / "trained", report)
    publish_model(home / "trained", "user/evaluated", [home / "trained" / "report"])
    publish_model(home / "trained" / "checkpoint-1", "user/checkpoint")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_elm) -> Path:
    home = tmp_path_factory.mktemp(USER)
    (home / "ecgs").mkdir()
    for number, name in enumerate("abcd"):
        np.save(home / "ecgs" / f"{name}.npy", ecg(number).astype(np.float32))
    (home / "ecgs" / "bad.npy").write_bytes(b"")
    names = [f"{name}.npy" for name in "abcd"] + ["bad.npy"]
    describe(home / "ecgs", *(row(name, patient_id=f"P{number}") for number, name in enumerate(names)))
    shutil.copytree(tiny_elm, home / "elm")
    return home


@pytest.fixture(scope="module")
def hub(home) -> Iterator[HubServer]:
    (home / "st_mem.json").write_text(json.dumps(ENCODERS["st_mem"]))
    with HubServer() as server:
        report = REPORT | {"conditions": {"ecg": {}}}
        server.run_client(PUBLISH.format(home=str(home), user=USER, host=HOST, llm=TINY_LLM, report=report))
        yield server


def contents(data: bytes, name: str) -> Iterator[bytes]:
    """The bytes of a file, with tables and archives unpacked."""
    yield data
    if name.endswith(".parquet"):
        table = pq.read_table(io.BytesIO(data))
        yield str(table.schema.metadata).encode()
        yield str(table.drop_columns([c for c in table.column_names if c == "ecg"]).to_pydict()).encode()
    elif zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for each in archive.namelist():
                yield archive.read(each)


def test_nothing_that_is_published_names_the_publishers_machine(hub, home, tmp_path_factory):
    words = [str(home), USER, HOST, str(tmp_path_factory.getbasetemp()), str(hub.root), str(Path(__file__).parents[1])]
    words += [str(Path.home()) + "/", hub.token]
    found, kinds = [], set()
    for (_, repo_id), repo in hub.repos.items():
        for name, file in sorted({item for commit in repo.commits for item in commit.files.items()}, key=str):
            data = hub.blob(file.sha256).read_bytes()
            kinds.add((repo_id, name))
            found += [
                (repo_id, name, word)
                for part in contents(data, name)
                for word in words
                if word.encode() in part or word in name
            ]
    assert found == []
    assert {
        ("user/mine-250-500", "privacy.json"),
        ("user/encoder", "model.safetensors"),
        ("user/composed", "config.json"),
        ("user/trained", "elm_training.json"),
        ("user/adapter", "adapter_config.json"),
        ("user/evaluated", "README.md"),
        ("user/checkpoint", "model.safetensors"),
    } <= kinds
    names = {Path(name).name for _, name in kinds}
    assert {"training_args.bin", "trainer_state.json", "run.json", "predictions.parquet"}.isdisjoint(names)


@pytest.mark.parametrize(
    ("repo_id", "kind"),
    [("user/trained", "An ECG-language model"), ("user/encoder", "An encoder of electrocardiograms")],
)
def test_a_checkpoint_that_is_pushed_in_training_has_our_card(hub, repo_id, kind):
    repo = next(repo for (_, name), repo in hub.repos.items() if name == repo_id)
    (commit,) = [commit for commit in repo.commits if commit.title == "Training in progress, step 1"]
    assert "model.safetensors" in commit.files
    card = hub.blob(commit.files["README.md"].sha256).read_text()
    assert f'repo = "{repo_id}"' in card and kind in card and "1 steps of 2" in card and "checkpoint-1" not in card


def test_a_published_encoder_keeps_its_card_under_the_name_of_the_repository(hub):
    cards = {}
    for (_, name), repo in hub.repos.items():
        if name.startswith("user/encoder"):
            cards[name] = ModelCard(hub.blob(repo.branches["main"].files["README.md"].sha256).read_text())
    card, original = cards["user/encoder-again"], cards["user/encoder"]
    assert card.text == original.text.replace("# encoder\n", "# encoder-again\n").replace(
        'repo = "user/encoder"', 'repo = "user/encoder-again"'
    )
    assert "# encoder-again\n" in card.text and 'repo = "user/encoder-again"' in card.text
    assert (card.data.license, card.data.model_name) == ("mit", "encoder-again")
    assert card.data.pipeline_tag == original.data.pipeline_tag == "feature-extraction"


def test_the_search_finds_what_is_packed(home):
    """The search itself: in the metadata and columns of a table, and in an archive of pickles as torch writes it."""
    for table in (pa.table({"x": [str(home)]}), pa.table({"x": [1]}).replace_schema_metadata({"at": str(home)})):
        packed = io.BytesIO()
        pq.write_table(table, packed, compression="zstd")
        assert any(str(home).encode() in part for part in contents(packed.getvalue(), "x.parquet"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("args/data.pkl", pickle.dumps({"output_dir": str(home)}))
    assert any(str(home).encode() in part for part in contents(packed.getvalue(), "training_args.bin"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--hub_strategy", "checkpoint"],
            "--hub_strategy checkpoint: the state of training holds paths of this machine",
        ),
        (["--use_peft"], "--push_to_hub: an adapter of .*elm, a local folder that others cannot load"),
    ],
)
def test_what_others_cannot_load_is_not_pushed(tiny_elm, tmp_path, options, message):
    arguments = ["--model_name_or_path", str(tiny_elm), "--dataset", "user/data", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match=message):
        check_arguments(*parse([*arguments, "--use_cpu", "--push_to_hub", *options]))
