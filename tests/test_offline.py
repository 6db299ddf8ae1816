"""Nothing that is saved, published or compared depends on whether the machine is online."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pandas as pd
import pytest
from test_compositions import COMPOSITIONS, compose
from transformers import AutoProcessor

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.publish import public_files
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.evaluation.fingerprints import fingerprint_of_processor


@pytest.fixture
def set_offline(monkeypatch):
    return lambda is_offline: monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", is_offline)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_is_saved_and_recognised_alike_online_and_offline(tiny_elm, set_offline, tmp_path):
    files, fingerprints = [], []
    for is_offline in (False, True):
        set_offline(is_offline)
        model, processor = load_checkpoint(tiny_elm, device="cpu")
        assert processor.tokenizer.init_kwargs["local_files_only"] is is_offline  # what transformers would save
        fingerprints.append(fingerprint_of_processor(processor, model.generation_config))
        model, processor = load_checkpoint(tiny_elm, device="cpu")
        folder = tmp_path / str(is_offline) / "elm"
        for part in (model, processor):
            part.save_pretrained(folder)
        files.append(files_of(folder))
    assert files[0] == files[1] and fingerprints[0] == fingerprints[1]
    assert {"model.safetensors", "tokenizer_config.json"} <= files[0].keys()
    # Checkpoints of earlier versions have what transformers saves.
    settings = json.loads(files[0]["tokenizer_config.json"])
    for is_offline in (False, True):
        noted = settings | {"is_local": True, "local_files_only": is_offline}
        (folder / "tokenizer_config.json").write_text(json.dumps(noted))
        model, processor = load_checkpoint(folder, device="cpu")
        assert fingerprint_of_processor(processor, model.generation_config) == fingerprints[0]
        assert json.loads(public_files(folder)["tokenizer_config.json"]) == settings


def test_the_tokenizer_of_ecgs_is_saved_alike_online_and_offline(ecg_tokenizer, set_offline, tmp_path):
    name = next(name for name, parts in COMPOSITIONS.items() if parts.representation == "symbol")
    compose(COMPOSITIONS[name], "llama", ecg_tokenizer)[1].save_pretrained(tmp_path / "first")
    files = []
    for is_offline in (False, True):
        set_offline(is_offline)
        folder = tmp_path / str(is_offline) / "symbol"
        AutoProcessor.from_pretrained(tmp_path / "first").save_pretrained(folder)
        files.append(files_of(folder))
    assert files[0] == files[1] and "ecg_tokenizer/tokenizer_config.json" in files[0]
    for tokenizer in ("", "ecg_tokenizer/"):
        assert {"is_local", "local_files_only"}.isdisjoint(json.loads(files[0][f"{tokenizer}tokenizer_config.json"]))


def test_an_evaluation_begun_online_goes_on_offline(speaking_elm, simulated_dataset, set_offline, tmp_path):
    options = {
        "limit": 2,
        "conditions": ["ecg"],
        "num_occlusions": 0,
        "max_new_tokens": 2,
        "batch_size": 1,
        "quiet": True,
    }
    set_offline(False)
    evaluate(speaking_elm, simulated_dataset, output=tmp_path / "whole", **options)
    whole = pd.read_parquet(tmp_path / "whole" / "predictions.parquet")
    (tmp_path / "begun").mkdir()
    shutil.copy(tmp_path / "whole" / "run.json", tmp_path / "begun")
    first = whole.iloc[0]
    answer = {"question_id": first["question_id"], "condition": "ecg", "prediction": "said before"}
    answer |= {"num_tokens": 2, "finished": False}
    (tmp_path / "begun" / "answers-00000.jsonl").write_text(json.dumps(answer) + "\n")

    set_offline(True)
    evaluate(speaking_elm, simulated_dataset, output=tmp_path / "begun", **options)
    begun = pd.read_parquet(tmp_path / "begun" / "predictions.parquet")
    assert begun["prediction"].tolist() == ["said before", *whole["prediction"][1:]] and len(begun) > 1
