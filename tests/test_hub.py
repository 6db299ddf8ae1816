"""Models and datasets are published to a local Hub server, then loaded by name in fresh processes."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from test_checkpoint_code import CONFIGURATION, MODEL, RESNET, SIGNAL
from test_compositions import COMPOSITIONS, compose

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.publish import publish_model
from elm_hf.data.loading import load_elm_dataset


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(libraries_once=True) as server:
        yield server


ROOT = Path(__file__).resolve().parents[1]
QUESTION = "What is the rhythm?"
# Code for processes that have the ECG but not this library.
LOAD_AND_ASK = """
    import sys
    sys.modules["elm_hf"] = None
    import numpy as np, torch
    from transformers import AutoModelForCausalLM, AutoProcessor

    model = AutoModelForCausalLM.from_pretrained("user/elm", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained("user/elm", trust_remote_code=True)
    item = {{"type": "ecg", "ecg": np.load({ecg!r}), "sampling_rate": 250}}
    content = [item, {{"type": "text", "text": {question!r}}}]
    inputs = processor.apply_chat_template(
        [{{"role": "user", "content": content}}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )
    with torch.no_grad():
        np.save({logits!r}, model(**inputs).logits.numpy())

    import json
    from huggingface_hub import HfApi
    from transformers import AutoConfig, AutoModel

    AutoModelForCausalLM.from_pretrained("user/resnet", trust_remote_code=True).push_to_hub("user/again")
    encoder = AutoModel.from_pretrained("user/again", trust_remote_code=True).encoder
    config = AutoConfig.from_pretrained("user/config", trust_remote_code=True)
    modules = [type(part).__module__ for part in (model, encoder, config.encoder_config)]
    print(json.dumps([modules, {{name: HfApi().list_repo_files("user/" + name) for name in {repos!r}}}]))
"""


def test_a_pushed_model_answers_the_same_without_this_library(hub, tiny_elm, ecgs, tmp_path):
    """One without an encoder, and one with the code of its encoder, by each of the ways to push."""
    compose(COMPOSITIONS["signal-ecg_resnet-mlp"], "qwen2", None)[0].save_pretrained(tmp_path / "resnet")
    hub.run_client(f"""
        from elm_hf import ElmForCausalLM, load_checkpoint

        model, processor = load_checkpoint({str(tiny_elm)!r})
        model.push_to_hub("user/elm")
        processor.push_to_hub("user/elm")
        with_encoder = ElmForCausalLM.from_pretrained({str(tmp_path / "resnet")!r})
        with_encoder.save_pretrained("model", push_to_hub=True, repo_id="user/resnet")
        with_encoder.config.save_pretrained("config", push_to_hub=True, repo_id="user/config")
    """)
    np.save(tmp_path / "ecg.npy", ecgs[0])
    repos = ["elm", "resnet", "again", "config"]
    names = {"ecg": str(tmp_path / "ecg.npy"), "logits": str(tmp_path / "logits.npy"), "question": QUESTION}
    modules, files = json.loads(hub.run_client(LOAD_AND_ASK.format(repos=repos, **names)).splitlines()[-1])
    for module, name in zip(modules, ("elm.", "again.", "config."), strict=True):
        assert module.startswith(f"transformers_modules.user.{name}")
    code = {name: {Path(file).stem for file in found if file.endswith(".py")} for name, found in files.items()}
    assert code == {
        "elm": SIGNAL,
        "resnet": MODEL | RESNET,
        "again": MODEL | RESNET,
        "config": CONFIGURATION | RESNET,
    }

    model, processor = load_checkpoint(tiny_elm)
    item = {"type": "ecg", "ecg": ecgs[0], "sampling_rate": 250}
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [item, {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        expected = model(**inputs).logits
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-6, atol=1e-6)


def test_a_published_adapter_loads_onto_the_base_that_it_names(hub, tiny_elm):
    """It loads with this library, and with PEFT and the code in the base."""
    said = hub.run_client(f"""
        import torch
        from peft import LoraConfig, get_peft_model
        from elm_hf import load_checkpoint, publish_model

        model, processor = load_checkpoint({str(tiny_elm)!r})
        model.push_to_hub("user/base")
        config = LoraConfig(target_modules=r".*language_model.*q_proj", init_lora_weights=False, task_type="CAUSAL_LM")
        adapted = get_peft_model(model, config).eval()
        for part in (adapted, processor):
            part.save_pretrained("adapter")
        try:
            publish_model("adapter", "user/adapter")
        except ValueError as error:
            assert "adapter: an adapter of {tiny_elm}, a local folder that others cannot load" in str(error), error
        publish_model("adapter", "user/adapter", base="user/base")
        ids = torch.arange(3, 7)[None]
        again, _ = load_checkpoint("user/adapter")
        assert torch.equal(again(input_ids=ids).logits, adapted(input_ids=ids).logits)
        print(adapted(input_ids=ids).logits.sum().item())
    """)
    in_peft = hub.run_client("""
        import sys
        sys.modules["elm_hf"] = None
        import torch
        from huggingface_hub import ModelCard
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoModelForCausalLM

        data = ModelCard.load("user/adapter").data
        assert data.base_model == ["user/base"] and data.base_model_relation == "adapter"
        for auto_class in (AutoPeftModelForCausalLM, AutoModelForCausalLM):
            model = auto_class.from_pretrained("user/adapter", trust_remote_code=True).eval()
            print(model(input_ids=torch.arange(3, 7)[None]).logits.sum().item())
    """)
    assert in_peft.splitlines()[-2:] == said.splitlines()[-1:] * 2


def test_an_uploaded_dataset_loads_by_name(hub, simulated_dataset):
    hub.run_client(f"""
        from huggingface_hub import HfApi

        HfApi().create_repo("user/simulated", repo_type="dataset")
        HfApi().upload_folder(repo_id="user/simulated", folder_path={str(simulated_dataset)!r}, repo_type="dataset")
    """)
    loaded = json.loads(
        hub.run_client("""
            import json
            from datasets import load_dataset
            from elm_hf import load_elm_dataset

            fold, records = load_dataset("user/simulated", "fold1"), load_dataset("user/simulated", "records")["train"]
            joined = load_elm_dataset("user/simulated", fold=1, split="test")
            row = fold["test"][0]
            print(json.dumps(dict(
                sizes={split: len(rows) for split, rows in fold.items()},
                named=[records[index]["record_id"] for index in row["ecg_index"]] == row["record_ids"],
                conversation_id=joined[0]["conversation_id"],
                ecg=[ecg[:, :5].tolist() for ecg in joined[0]["ecgs"]],
            )))
        """).splitlines()[-1]
    )
    splits = {
        split: load_elm_dataset(simulated_dataset, fold=1, split=split) for split in ("train", "validation", "test")
    }
    row = splits["test"][0]
    assert loaded == {
        "sizes": {split: len(rows) for split, rows in splits.items()},
        "named": True,
        "conversation_id": row["conversation_id"],
        "ecg": [ecg[:, :5].tolist() for ecg in row["ecgs"]],
    }


def test_training_pushes_a_model_that_loads_by_name(hub, tiny_elm, simulated_dataset, tmp_path):
    arguments = ["train_sft.py", "--model_name_or_path", str(tiny_elm), "--dataset", str(simulated_dataset)]
    arguments += ["--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--per_device_train_batch_size", "2"]
    arguments += ["--report_to", "none", "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "true"]
    arguments += ["--push_to_hub", "--hub_model_id", "user/trained"]
    pushed = hub.run_client(f"""
        import json, runpy, sys
        from huggingface_hub import HfApi, ModelCard
        from transformers import AutoModel

        sys.argv = {arguments!r}
        runpy.run_path({str(ROOT / "train_sft.py")!r}, run_name="__main__")
        model = AutoModel.from_pretrained("user/trained", trust_remote_code=True)
        card = ModelCard.load("user/trained").text
        print(json.dumps([type(model).__name__, HfApi().list_repo_files("user/trained"), card]))
    """)
    name, files, card = json.loads(pushed.splitlines()[-1])
    assert 'repo = "user/trained"' in card and "not a medical device" in card
    assert "| data | simulated, fold 1, training split |" in card
    assert "| training | 1 steps of 2 conversations, learning rate 2e-05 (linear), seed 42 |" in card
    # created again from the training record
    again = publish_model(tmp_path / "out", "user/again", dry_run=True)
    assert "elm_training.json" in again.sizes and "training_args.bin" not in again.sizes
    assert name == "ElmModel"
    assert {"README.md", "model.safetensors", "modeling_elm.py", "processing_elm.py", "processor_config.json"} <= set(
        files
    )
