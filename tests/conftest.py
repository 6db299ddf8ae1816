"""Fixtures shared by the tests."""

import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import warm_python


ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))  # for `import train_sft`
# For numpy's threads: pytest-xdist reads this file before it starts its processes, which share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Also where the environment says otherwise: without it every process that a test starts compiles elm_hf again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()  # until all tests are collected: what is imported is no garbage

TINY_LLM = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def pytest_collection_finish():
    """The libraries and tests stay until the end: no later garbage collection looks through their million objects again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real ECGs beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real ECGs at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def real_ecgs(shared_data) -> dict[str, tuple[np.ndarray, int]]:
    """Every 12-lead record of the collection: name -> ((12, samples) mV in the order of LEADS, sampling rate)."""
    import h5py

    from elm_hf.modeling.ecg_leads import place_leads
    from elm_hf.modeling.ecg_reading import load_ecg

    ecgs = {}
    for header in sorted(shared_data.rglob("*.hea")):
        ecg, sampling_rate, lead_names = load_ecg(header)
        ecgs[header.stem] = place_leads(ecg, lead_names)[0], sampling_rate
    for part in sorted((shared_data / "code15").glob("*.hdf5")):
        with h5py.File(part) as file:
            for exam_id, tracing in zip(file["exam_id"][:], file["tracings"][:]):
                signal = np.flatnonzero(tracing.any(axis=1))
                if exam_id:
                    ecgs[f"code15/{exam_id}"] = tracing[signal[0] : signal[-1] + 1].T, 400
    assert len(ecgs) == 42  # PTB-XL 7 + 1, CSN 14, CPSC 7, stand-ins 6, CODE-15 7
    return ecgs


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two test processes share two cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory):
    """
    What `load_dataset` keeps is temporary. It finds what it kept of a local folder by the folder's name and card, and
    would find that of an earlier version of a test.
    """
    folder = tmp_path_factory.mktemp("cache")
    before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder))  # for the processes that tests start
        yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session", autouse=True)
def users_folder(tmp_path_factory):
    """
    The user's key of pseudonyms is in a temporary folder, also for the processes that tests start. It is always the same, so
    that folds are.
    """
    folder = tmp_path_factory.mktemp("config")
    (folder / "elm-hf").mkdir()
    (folder / "elm-hf" / "pseudonyms.key").write_text("00" * 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def interpreters(datasets_cache, users_folder):
    """For `run_python`, with the environment of the tests."""
    with warm_python.interpreters(os.environ):
        yield


@pytest.fixture(scope="module", autouse=True)
def charts(request):
    """Charts are made by every report, but rendered only in modules with `RENDERS_CHARTS`: it takes a third of an evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("matplotlib") is not None and not getattr(request.module, "RENDERS_CHARTS", False):
            patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: Path(file).write_bytes(b""))
        yield


@pytest.fixture
def ecgs() -> np.ndarray:
    """Three different 12-lead ECGs of 500 samples in mV (noise: shapes matter here, not hearts)."""
    return np.random.default_rng(0).normal(0, 0.3, (3, 12, 500)).astype(np.float32)


@pytest.fixture(scope="session")
def simulated_dataset(tmp_path_factory) -> Path:
    """A small dataset of simulated ECGs of 2 s with questions, in the Hub layout."""
    from elm_hf.prepare.dataset import prepare_dataset

    folder = tmp_path_factory.mktemp("data") / "simulated"
    prepare_dataset("simulated_qa", folder, seconds=2, num_recordings=40)
    return folder


@pytest.fixture(scope="session")
def earlier_version(simulated_dataset, tmp_path_factory) -> Path:
    """The dataset as an earlier version built it: without a table of patients and without validation splits."""
    folder = Path(shutil.copytree(simulated_dataset, tmp_path_factory.mktemp("earlier") / "earlier"))
    shutil.rmtree(folder / "patients")
    for path in folder.glob("fold*/validation-*.parquet"):
        path.unlink()
    card = (folder / "README.md").read_text()
    card = re.sub(r"- config_name: patients\n(?:  .*\n)+", "", card)
    (folder / "README.md").write_text(re.sub(r"  - split: validation\n    path: .*\n", "", card))
    return folder


def create_tiny_elm(folder: Path, dataset: Path, config: dict, encoder: str | None = None) -> Path:
    """A new checkpoint below a folder, of an ELM that reads ECGs of 2 s and has the words of a dataset."""
    from elm_hf.checkpoints.create import create_elm

    (folder / "elm.json").write_text(json.dumps(config))
    create_elm(
        folder / "elm",
        config=folder / "elm.json",
        encoder=encoder,
        tokenizer_dataset=str(dataset),
        vocab_size=400,
        num_ecg_tokens=10,
        seconds=2,
    )
    return folder / "elm"


@pytest.fixture(scope="session")
def tiny_elm(simulated_dataset, tmp_path_factory) -> Path:
    """A new checkpoint of a tiny ELM that reads ECGs of 2 s."""
    return create_tiny_elm(tmp_path_factory.mktemp("models"), simulated_dataset, {"text_config": TINY_LLM})


@pytest.fixture(scope="session")
def elm_with_encoder(simulated_dataset, tmp_path_factory) -> Path:
    """A new checkpoint of a tiny ELM with an encoder, an `ecg_resnet`, which reads ECGs of 2 s."""
    encoder = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    config = {"text_config": TINY_LLM, "encoder_config": encoder}
    return create_tiny_elm(tmp_path_factory.mktemp("with_encoder"), simulated_dataset, config, encoder="ecg_resnet")


@pytest.fixture(scope="session")
def speaking_elm(tiny_elm, tmp_path_factory) -> Path:
    """The tiny ELM with weights so large that its answers are words, which depend on the ECG and on the question."""
    from elm_hf.checkpoints.load import load_checkpoint

    model, processor = load_checkpoint(tiny_elm, device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5)
    model.generation_config.suppress_tokens = processor.tokenizer.all_special_ids
    folder = tmp_path_factory.mktemp("models") / "speaking"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ecg_tokenizer(simulated_dataset, tmp_path_factory):
    """A small ECG-Byte tokenizer."""
    from elm_hf.checkpoints.ecg_byte import train_ecg_byte_tokenizer
    from elm_hf.modeling.tokenization_ecg_byte import EcgByteTokenizer

    folder = tmp_path_factory.mktemp("tokenizers") / "ecg_byte"
    train_ecg_byte_tokenizer(simulated_dataset, 200, folder)
    return EcgByteTokenizer.from_pretrained(folder)


@pytest.fixture
def flex_without_kernel(monkeypatch) -> Iterator[None]:
    """FlexAttention by torch's own dense computation, which has a backward pass on a CPU; the kernels need a GPU for that."""
    from torch.nn.attention import flex_attention

    monkeypatch.setattr(flex_attention, "_validate_device", lambda *args: None)
    with torch.compiler.set_stance("force_eager"):
        yield
