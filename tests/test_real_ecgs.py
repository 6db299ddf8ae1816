"""The whole workflow on real ECGs: building PTB-XL and ECG-QA, fine-tuning on real reports, asking about a record."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import wfdb
from safetensors.torch import load_file
from warm_python import run_python

from elm_hf.checkpoints.create import create_elm
from elm_hf.data.loading import load_elm_dataset
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.training import sft


def train(model: Path, dataset: Path, output: Path) -> Path:
    arguments = ["--model_name_or_path", str(model), "--dataset", str(dataset), "--output_dir", str(output)]
    arguments += ["--max_steps", "4", "--per_device_train_batch_size", "2", "--learning_rate", "1e-3"]
    arguments += ["--report_to", "none", "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "true"]
    sft.train(sft.build_trainer(*sft.parse(arguments)))
    return output


@pytest.fixture(scope="module")
def real_reports(shared_data, tmp_path_factory) -> Path:
    """PTB-XL's records and reports. One of the eight rows of the sample has no 500 Hz file."""
    folder = tmp_path_factory.mktemp("real") / "ptb_xl"
    prepare_dataset("ptb_xl", folder, source=shared_data / "ptb_xl", max_skipped=0.125)
    return folder


@pytest.fixture(scope="module")
def trained(real_reports, tmp_path_factory) -> Path:
    """A tiny ELM trained for a few steps on real ECGs and their reports."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "elm.json").write_text(
        '{"text_config": {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, '
        '"num_attention_heads": 2, "num_key_value_heads": 2}, "num_ecg_tokens": 10}'
    )
    create_elm(folder / "elm", config=folder / "elm.json", tokenizer_dataset=real_reports, vocab_size=400)
    return train(folder / "elm", real_reports, folder / "trained")


def test_a_conversation_contains_the_right_ecg_and_a_report(real_reports, shared_data):
    rows = load_elm_dataset(real_reports, fold=1, split="train")
    for row in rows:
        number = int(row["record_ids"][0].split("-")[1])
        record = wfdb.rdrecord(str(shared_data / f"ptb_xl/records500/06000/{number:05d}_hr"))
        names = [name.upper() for name in record.sig_name]
        lead_ii = record.p_signal[:, names.index("II")]
        # At half the sampling rate peaks may differ; the correlation is high because the slower waves agree.
        ours = row["ecgs"][0][LEADS.index("II")]
        assert np.corrcoef(ours, lead_ii.reshape(-1, 2).mean(axis=1))[0, 1] > 0.99
        assert row["messages"][-1]["role"] == "assistant"
        assert row["messages"][-1]["content"][0]["text"].strip()


def test_a_model_trained_on_real_reports_answers_about_a_record(trained, shared_data, tmp_path):
    result = run_python(
        [
            *(Path(sys.executable).with_name("elm-hf"), "ask", trained),
            *("--ecg", shared_data / "ptb_xl/records500/06000/06000_hr", "--question", "What does this ECG show?"),
            *("--trust-remote-code", "--plot", tmp_path / "ecg.png", "--max-new-tokens", "8"),
        ]
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("ECG 06000_hr, answered by transformers_modules.")
    assert lines[1] == "What does this ECG show?"
    assert (tmp_path / "ecg.png").read_bytes().startswith(b"\x89PNG")


def test_real_comparisons_train_with_both_ecgs(real_reports, trained, shared_data, tmp_path):
    source = shared_data / "ecg_qa" / "ptbxl_mini"
    prepare_dataset("ecg_qa", tmp_path / "ecg_qa", source=source, records=real_reports)
    rows = load_elm_dataset(tmp_path / "ecg_qa", fold=1, split="train")
    pairs = [row["ecgs"] for row in rows if row["question_type"].startswith("comparison")]
    assert pairs and all(len(pair) == 2 and not np.array_equal(*pair) for pair in pairs)
    before, after = trained, train(trained, tmp_path / "ecg_qa", tmp_path / "out")
    first, second = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert all(second[name].isfinite().all() for name in second)
    assert not torch.equal(first["model.projector.linear.weight"], second["model.projector.linear.weight"])
