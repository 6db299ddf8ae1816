"""QLoRA on the CPU: only the LLM is quantized; training, adapters, and loading them in 4 bits, 8 bits or merged."""

from pathlib import Path

import pytest
import torch
from conftest import TINY_LLM, create_tiny_elm
from peft import AutoPeftModelForCausalLM
from test_training import some_logits
from transformers import BitsAndBytesConfig
from trl import ModelConfig

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.merge import merge_adapter
from elm_hf.data.loading import load_elm_dataset
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training import sft
from elm_hf.training.parts import quantization_config


bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
QUANTIZED = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}


@pytest.fixture(scope="module")
def elm_with_encoder(simulated_dataset, tmp_path_factory) -> Path:
    """As in conftest, and wide enough to be quantized."""
    config = {"text_config": TINY_LLM | {"hidden_size": 64}}
    return create_tiny_elm(tmp_path_factory.mktemp("quantized"), simulated_dataset, config, encoder="ecg_resnet")


def arguments(model: Path, dataset: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", str(model), "--dataset", str(dataset), "--output_dir", str(output)),
        *("--max_steps", "8", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--logging_steps", "1"),
        *("--report_to", "none", "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "true", "--seed", "1", *more),
    ]


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_an_elm_whose_projector_is_quantized_has_similar_ecg_features(bits, elm_with_encoder):
    """`from_pretrained` with a plain configuration also quantizes the projector, whose weights are then integers."""
    config = BitsAndBytesConfig(**{f"load_in_{bits}": True})
    whole = ElmForCausalLM.from_pretrained(elm_with_encoder)
    quantized = ElmForCausalLM.from_pretrained(elm_with_encoder, quantization_config=config)
    assert isinstance(quantized.model.projector.linear_1, QUANTIZED[bits])
    ecgs = torch.rand(2, 12, 500, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, features = (one.get_ecg_features(ecgs).pooler_output.flatten(1) for one in (whole, quantized))
    assert torch.nn.functional.cosine_similarity(features, expected).min() > 0.9


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_only_the_llm_is_quantized_and_its_adapters_are_trained(bits, elm_with_encoder, simulated_dataset, tmp_path):
    options = (f"--load_in_{bits}", "--use_peft", "--lora_r", "4", "--trainable", "projector", "llm")
    command = arguments(elm_with_encoder, simulated_dataset, tmp_path / "adapter", *options)
    trainer = sft.build_trainer(*sft.parse(command))
    elm = trainer.model.get_base_model()
    quantized = {name for name, module in elm.named_modules() if isinstance(module, QUANTIZED[bits])}
    assert len(quantized) == 2 * 7 and all(".language_model.layers." in name for name in quantized)
    for part in (elm.model.encoder, elm.model.projector, elm.lm_head):
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    sft.train(trainer)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < sum(losses[:3])

    # The base is the checkpoint in full precision: the adapter is loaded onto it and merged into it.
    _, processor = load_checkpoint(tmp_path / "adapter")
    quantization = quantization_config(ModelConfig(**{f"load_in_{bits}": True}))
    again = AutoPeftModelForCausalLM.from_pretrained(
        tmp_path / "adapter", quantization_config=quantization, dtype=torch.bfloat16
    ).eval()
    trained = some_logits(trainer.model.eval(), processor, simulated_dataset).float()
    assert torch.allclose(some_logits(again, processor, simulated_dataset).float(), trained, atol=0.05)
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    merged = some_logits(ElmForCausalLM.from_pretrained(tmp_path / "merged"), processor, simulated_dataset)
    untrained = some_logits(ElmForCausalLM.from_pretrained(elm_with_encoder), processor, simulated_dataset)
    assert (merged - trained).abs().mean() < 0.3 * (merged - untrained).abs().mean()


def test_a_quantized_checkpoint_loads_but_adapters_are_not_merged_into_it(
    elm_with_encoder, simulated_dataset, tmp_path
):
    quantization = quantization_config(ModelConfig(load_in_4bit=True))
    model = ElmForCausalLM.from_pretrained(
        elm_with_encoder, quantization_config=quantization, dtype=torch.bfloat16
    ).eval()
    _, processor = load_checkpoint(elm_with_encoder)
    model.save_pretrained(tmp_path / "quantized")
    processor.save_pretrained(tmp_path / "quantized")
    again = ElmForCausalLM.from_pretrained(tmp_path / "quantized").eval()
    expected = some_logits(model, processor, simulated_dataset)
    assert torch.allclose(some_logits(again, processor, simulated_dataset), expected, atol=1e-2)

    command = arguments(
        tmp_path / "quantized", simulated_dataset, tmp_path / "adapter", "--use_peft", "--max_steps", "1"
    )
    sft.train(sft.build_trainer(*sft.parse([*command, "--trainable", "llm"])))
    with pytest.raises(ValueError, match="quantized: is quantized, and merging into quantized weights.*--base"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge_adapter(tmp_path / "adapter", tmp_path / "merged", base=elm_with_encoder)
    assert len(load_elm_dataset(simulated_dataset)) and load_checkpoint(tmp_path / "merged")[0].dtype == torch.float32
