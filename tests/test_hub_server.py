"""The test Hub against the real clients: what they upload comes back, and its refusals reach them as the Hub's do."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import LFS_SIZE, HubServer
from safetensors.numpy import save_file


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def report_of(hub: HubServer, code: str) -> dict:
    """Run a client; the last line it prints is its report, as JSON."""
    return json.loads(hub.run_client(code).splitlines()[-1])


# Files, with huggingface_hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for each way of sending it: text, empty, odd name, in LFS by its name, in LFS by its size."""
    folder = tmp_path_factory.mktemp("folder")
    contents = {
        "README.md": "---\nlicense: apache-2.0\n---\n# ECG – déjà vu\n".encode(),
        "empty.txt": b"",
        "deep/er/with space+plus%.json": b'{"mV": 1}',
        "weights.safetensors": bytes(range(256)) * 8,
        "large.log": np.random.default_rng(0).bytes(LFS_SIZE + 1),
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def files(hub: HubServer, folder: Path) -> dict:
    """What one client saw that uploaded the folder, changed the repository and was refused things."""
    return report_of(
        hub,
        f"""
        import hashlib, json
        from pathlib import Path
        from huggingface_hub import CommitOperationDelete, HfApi, HfFileSystem, hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        api, repo, folder, report = HfApi(), "user/files", {str(folder)!r}, {{}}

        def listing():
            return [path for path in api.list_repo_files(repo) if path != ".gitattributes"]

        def refusal(call, *args, **kwargs):
            try:
                call(*args, **kwargs)
            except HfHubHTTPError as error:
                return [type(error).__name__, error.response.status_code]

        report["exists"] = [api.repo_exists(repo)]
        api.create_repo(repo)
        report["exists"].append(api.repo_exists(repo))
        first = api.upload_folder(repo_id=repo, folder_path=folder)
        snapshot = Path(snapshot_download(repo))
        report["listed"] = listing()
        report["digests"] = {{path: hashlib.sha256((snapshot / path).read_bytes()).hexdigest() for path in listing()}}
        report["sizes"] = {{info.path: info.size for info in api.get_paths_info(repo, [*listing(), "none.json"])}}
        report["unchanged"] = api.upload_folder(repo_id=repo, folder_path=folder).oid == first.oid

        edit = api.upload_file(path_or_fileobj=b"new", path_in_repo="README.md", repo_id=repo, commit_message="edit")
        api.create_commit(repo, [CommitOperationDelete("deep/")], commit_message="delete")
        report["versions"] = [
            Path(hf_hub_download(repo, "README.md", revision=revision)).read_text() for revision in (first.oid, "main")
        ]
        report["left"] = listing()
        report["edit"] = [edit.oid, api.get_paths_info(repo, "README.md", expand=True)[0].last_commit.oid]

        report["ranges"] = [
            list(HfFileSystem().cat_file("user/files/weights.safetensors", start=start, end=end))
            for start, end in ((250, 260), (-3, None))
        ]

        api.create_repo("user/secret", private=True)
        api.create_repo("user/data", repo_type="dataset")
        upload = dict(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=repo)
        report["refusals"] = {{
            "no repository": refusal(api.model_info, "user/none"),
            "no repository to download from": refusal(hf_hub_download, "none", "config.json"),
            "a dataset asked for as a model": refusal(api.model_info, "user/data"),
            "no file": refusal(hf_hub_download, repo, "none.json"),
            "no revision": refusal(hf_hub_download, repo, "README.md", revision="v9"),
            "private, with token": refusal(api.model_info, "user/secret"),
            "private, without token": refusal(api.model_info, "user/secret", token=False),
            "create without token": refusal(api.create_repo, "user/other", token=False),
            "upload without token": refusal(api.upload_file, token=False, **upload),
            "wrong token": refusal(api.model_info, repo, token="hf_wrong"),
            "create again": refusal(api.create_repo, repo),
            "commit on an old parent": refusal(api.upload_file, parent_commit=first.oid, **upload),
            "delete what is not there": refusal(api.delete_file, "none.txt", repo),
            "not served": refusal(api.create_tag, repo, tag="v2"),
        }}
        print(json.dumps(report))
        """,
    )


def test_folder_comes_back_byte_for_byte(files: dict, folder: Path) -> None:
    sent = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files["exists"] == [False, True]
    assert files["listed"] == sorted(sent)
    assert files["digests"] == {name: hashlib.sha256(content).hexdigest() for name, content in sent.items()}
    assert files["sizes"] == {name: len(content) for name, content in sent.items()}


def test_only_large_files_and_weights_are_sent_to_lfs(hub: HubServer, files: dict) -> None:
    in_lfs = [name for name, digest in files["digests"].items() if f"PUT /lfs/{digest} 200" in hub.requests]
    assert in_lfs == ["large.log", "weights.safetensors"]


def test_uploading_unchanged_files_makes_no_commit(files: dict) -> None:
    assert files["unchanged"]


def test_old_commits_keep_what_later_ones_change_or_delete(files: dict, folder: Path) -> None:
    assert files["versions"] == [(folder / "README.md").read_text(encoding="utf-8"), "new"]
    assert files["left"] == ["README.md", "empty.txt", "large.log", "weights.safetensors"]
    assert files["edit"][0] == files["edit"][1]


def test_reads_ranges_of_a_file(hub: HubServer, files: dict) -> None:
    assert files["ranges"] == [[250, 251, 252, 253, 254, 255, 0, 1, 2, 3], [253, 254, 255]]
    assert "GET /user/files/resolve/main/weights.safetensors 206" in hub.requests


@pytest.mark.parametrize(
    ("asked", "error"),
    {
        "no repository": ["RepositoryNotFoundError", 404],
        "no repository to download from": ["RepositoryNotFoundError", 404],
        "a dataset asked for as a model": ["RepositoryNotFoundError", 404],
        "no file": ["RemoteEntryNotFoundError", 404],
        "no revision": ["RevisionNotFoundError", 404],
        "private, with token": None,
        "private, without token": ["RepositoryNotFoundError", 404],
        "create without token": ["HfHubHTTPError", 401],
        "upload without token": ["RepositoryNotFoundError", 401],
        "wrong token": ["HfHubHTTPError", 401],
        "create again": ["HfHubHTTPError", 409],
        "commit on an old parent": ["HfHubHTTPError", 412],
        "delete what is not there": ["RemoteEntryNotFoundError", 404],
        "not served": ["HfHubHTTPError", 501],
    }.items(),
)
def test_refusals_reach_the_caller_as_the_hubs_do(files: dict, asked: str, error: list | None) -> None:
    assert files["refusals"][asked] == error


def test_failing_client_raises_with_its_stderr(hub: HubServer) -> None:
    with pytest.raises(RuntimeError, match="exit code 1:(?s:.)*ValueError: electrode off"):
        hub.run_client("raise ValueError('electrode off')")


def test_clients_reach_no_other_host_and_share_no_files(hub: HubServer) -> None:
    code = """
        import os, urllib.error, urllib.request
        print(os.listdir("."), os.path.samefile(".", os.environ["HF_HOME"]))
        open("left", "w").close()
        try:
            urllib.request.urlopen("http://huggingface.co/api/models")
        except urllib.error.HTTPError as error:
            print(error.code)
    """
    first, second = hub.run_client(code).split(), hub.run_client(code).split()
    assert first == second == ["[]", "True", "501"]


# Datasets, with datasets


ROWS = {
    "records": [
        {"record_id": str(i), "ecg": [[i, -i, 32767], [0, i, -32768]], "age": None if i == 1 else 60.5}
        for i in range(3)
    ],
    "fold1": [{"ecg_index": [2, 0], "answer": ["atrial fibrillation"]}, {"ecg_index": [], "answer": []}],
}


def test_pushed_configs_load_by_name_with_equal_rows(hub: HubServer) -> None:
    loaded = report_of(
        hub,
        f"""
        import json
        from datasets import Array2D, Dataset, DatasetDict, Features, Value, load_dataset

        rows = {ROWS!r}
        features = Features(record_id=Value("string"), ecg=Array2D((2, 3), "int16"), age=Value("float32"))
        Dataset.from_list(rows["records"], features=features).push_to_hub("user/pushed", "records", split="train")
        fold = Dataset.from_list(rows["fold1"])
        DatasetDict(train=fold.select([0]), test=fold.select([1])).push_to_hub("user/pushed", "fold1")

        records, fold = load_dataset("user/pushed", "records", split="train"), load_dataset("user/pushed", "fold1")
        streamed = load_dataset("user/pushed", "records", split="train", streaming=True)
        print(json.dumps(dict(
            records=records.to_list(),
            fold1=fold["train"].to_list() + fold["test"].to_list(),
            same_features=records.features == features,
            streamed=[row["record_id"] for row in streamed],
        )))
        """,
    )
    assert {name: loaded[name] for name in ROWS} == ROWS
    assert loaded["same_features"]
    assert loaded["streamed"] == ["0", "1", "2"]


README = """\
---
configs:
- config_name: records
  data_files:
  - {split: train, path: "records/train-*.parquet"}
- config_name: fold1
  data_files:
  - {split: train, path: fold1/train.parquet}
  - {split: test, path: fold1/test.parquet}
---
# ECGs
"""


def test_uploaded_parquet_folder_loads_by_the_configs_of_its_readme(hub: HubServer, tmp_path: Path) -> None:
    tables = {
        "records/train-00000-of-00002.parquet": ["a", "b"],
        "records/train-00001-of-00002.parquet": ["c"],
        "fold1/train.parquet": ["a", "c"],
        "fold1/test.parquet": ["b"],
    }
    (tmp_path / "README.md").write_text(README)
    for name, ids in tables.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"record_id": ids}), tmp_path / name)
    loaded = report_of(
        hub,
        f"""
        import json
        from datasets import get_dataset_config_names, load_dataset
        from huggingface_hub import HfApi

        HfApi().create_repo("user/folder", repo_type="dataset")
        HfApi().upload_folder(repo_id="user/folder", folder_path={str(tmp_path)!r}, repo_type="dataset")
        loaded = {{}}
        for name in get_dataset_config_names("user/folder"):
            splits = load_dataset("user/folder", name)
            loaded[name] = {{split: rows["record_id"][:] for split, rows in splits.items()}}
        print(json.dumps(loaded))
        """,
    )
    assert loaded == {"records": {"train": ["a", "b", "c"]}, "fold1": {"train": ["a", "c"], "test": ["b"]}}


# Models with their own code, with transformers


CONFIGURATION = """
from transformers import PreTrainedConfig

class GainConfig(PreTrainedConfig):
    model_type = "gain"
    leads: int = 2
"""

MODELING = """
import torch
from transformers import PreTrainedModel
from .configuration_gain import GainConfig

class GainModel(PreTrainedModel):
    config_class = GainConfig

    def __init__(self, config):
        super().__init__(config)
        self.gain = torch.nn.Parameter(torch.ones(config.leads))
        self.post_init()

    def forward(self, ecg):
        return ecg * self.gain
"""


def test_model_with_its_own_code_loads_in_a_fresh_process(hub: HubServer, tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "configuration_gain.GainConfig", "AutoModel": "modeling_gain.GainModel"}
    config = {"model_type": "gain", "leads": 2, "architectures": ["GainModel"], "auto_map": auto_map}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration_gain.py").write_text(CONFIGURATION)
    (tmp_path / "modeling_gain.py").write_text(MODELING)
    save_file({"gain": np.array([0.5, -3.0], np.float32)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    hub.run_client(f"""
        from huggingface_hub import HfApi

        HfApi().create_repo("user/gain")
        HfApi().upload_folder(repo_id="user/gain", folder_path={str(tmp_path)!r})
    """)
    outputs = report_of(
        hub,
        """
        import json
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

        ecg = torch.tensor([4.0, 5.0])
        model = AutoModel.from_pretrained("user/gain", trust_remote_code=True)
        model.push_to_hub("user/again")
        again = AutoModel.from_pretrained("user/again", trust_remote_code=True)

        words = Tokenizer(models.WordLevel({"is": 0, "it": 1, "sinus": 2, "?": 3}, unk_token="?"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
        tokenizer.chat_template = "{{ messages[0].content }} ?"
        tokenizer.push_to_hub("user/again")
        tokenizer = AutoTokenizer.from_pretrained("user/again", trust_remote_code=True)
        print(json.dumps(dict(
            uploaded=model(ecg).tolist(),
            pushed=again(ecg).tolist(),
            ids=tokenizer.apply_chat_template([{"role": "user", "content": "is it sinus"}], return_dict=False),
        )))
        """,
    )
    assert outputs == {"uploaded": [2.0, -15.0], "pushed": [2.0, -15.0], "ids": [0, 1, 2, 3]}
