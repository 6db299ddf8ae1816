"""Creating checkpoints: the tokenizer trained on a dataset, and settings that are refused."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_LLM
from test_training import train
from tiny_models import tiny_llm, tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    ByT5Tokenizer,
    Gemma3Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)
from transformers import initialization as init

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.encoder import load_encoder
from elm_hf.checkpoints.llm import check_saved
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.tokenizer import train_tokenizer
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.seen_patients import SeenPatients, read_stages, stages_before
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.utils.files import save_atomically
from elm_hf.utils.positions import position_limit
from elm_hf.utils.recipes import model_names, model_path


SMALL = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "opt": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "dropout": 0.5},
}

TEXTS = ["Does this ECG show wide qrs?", "Is there noise?", "wide qrs, static noise", "yes", "no"] * 20


def test_a_tokenizer_decodes_every_text_that_it_encodes():
    tokenizer = train_tokenizer(TEXTS, 300, ["wide qrs"])
    for text in (*TEXTS[:5], "Ärger mit  Lücken,\nZeilen und 😀", " vorn und hinten "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_whole_phrases_are_always_one_token():
    tokenizer = train_tokenizer(TEXTS, 262, ["wide qrs", "yes"])
    phrase = tokenizer.convert_tokens_to_ids("wide qrs")
    for text in ("Does this ECG show wide qrs?", "wide qrs, static noise", "wide qrs"):
        assert tokenizer(text)["input_ids"].count(phrase) == 1
    assert tokenizer.convert_tokens_to_ids("yes") not in tokenizer("yesterday")["input_ids"]


def test_tokens_span_words_but_no_punctuation():
    tokens = train_tokenizer(TEXTS, 350).get_vocab()
    assert "Does\u0120this\u0120ECG\u0120show\u0120wide\u0120qrs" in tokens
    assert not any("qrs," in token or "noise?" in token for token in tokens)


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 262 tokens, got 100"):
        train_tokenizer(TEXTS, 100)


def test_the_answers_of_the_dataset_are_single_tokens(tiny_elm, simulated_dataset):
    tokenizer = AutoTokenizer.from_pretrained(tiny_elm)
    answers = {item for answer in load_elm_dataset(simulated_dataset)["answer"] for item in answer}
    assert {"yes", "no", "sinus rhythm"} <= answers
    assert all(len(tokenizer(item)["input_ids"]) == 1 for item in answers)


def test_unknown_settings_are_named_and_create_nothing(tmp_path, simulated_dataset):
    config = tmp_path / "elm.json"
    config.write_text(json.dumps({"projektor": 1, "text_config": {"model_type": "qwen2"}}))
    with pytest.raises(ValueError, match="elm.json: not a field of ElmConfig: projektor"):
        create_elm(tmp_path / "elm", config=config, tokenizer_dataset=str(simulated_dataset))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elm.json"]


def test_the_error_for_a_misspelt_encoder_lists_the_types_of_new_encoders():
    with pytest.raises(FileNotFoundError, match="ecg_resnett: no such folder.* Types of new encoders: ecg_resnet, "):
        load_encoder("ecg_resnett")


def save_llm(folder, config, tokenizer=None):
    """Saves an LLM with random weights and a tokenizer with a chat template."""
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(config)
    llm.save_pretrained(folder)
    (tokenizer or tiny_tokenizer("qwen2")).save_pretrained(folder)
    return llm


def test_a_new_encoder_is_of_the_default_type(tmp_path):
    settings = {"text_config": TINY_LLM}
    settings["encoder_config"] = {"hidden_sizes": [8, 16], "depths": [1, 1], "kernel_sizes": [5, 3]}
    (tmp_path / "elm.json").write_text(json.dumps(settings))
    tiny_tokenizer("qwen2").save_pretrained(tmp_path / "tokenizer")
    options = {"config": tmp_path / "elm.json", "tokenizer": str(tmp_path / "tokenizer"), "num_ecg_tokens": 5}
    config = create_elm(tmp_path / "elm", encoder="new", seconds=2, **options).config
    assert config.encoder_config.model_type == "ecg_se_resnet" and config.encoder_config.hidden_size == 16
    assert config.num_samples == 200  # it reads 100 Hz
    assert read_stages(tmp_path / "elm") == []


def test_an_encoder_can_be_taken_out_and_built_on(simulated_dataset, tmp_path):
    settings = {"text_config": TINY_LLM}
    settings["encoder_config"] = {
        "model_type": "ecg_se_resnet",
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "kernel_sizes": [5, 3],
    }
    (tmp_path / "elm.json").write_text(json.dumps(settings))
    data = {"tokenizer_dataset": str(simulated_dataset), "vocab_size": 400, "num_ecg_tokens": 5, "seconds": 2}
    create_elm(tmp_path / "elm", config=tmp_path / "elm.json", **data)
    trained = train(tmp_path / "elm", simulated_dataset, tmp_path / "trained", "--trainable", "encoder", "projector")
    model, processor = load_checkpoint(trained)
    for part in (model.model.encoder, processor.feature_extractor, SeenPatients(stages_before(trained))):
        part.save_pretrained(tmp_path / "encoder")
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM}))
    built = create_elm(tmp_path / "built", encoder=str(tmp_path / "encoder"), config=tmp_path / "elm.json", **data)
    ecgs = torch.randn(1, 12, 200)
    assert torch.equal(built.model.encoder(ecgs).pooler_output, model.model.encoder(ecgs).pooler_output)
    (stage,) = read_stages(tmp_path / "built")
    assert stage.kind == "alignment" and np.array_equal(stage.patients, read_stages(trained)[0].patients)


def test_a_model_without_an_encoder_reads_the_sampling_rate_that_is_asked_for(tmp_path):
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM}))
    tiny_tokenizer("qwen2").save_pretrained(tmp_path / "tokenizer")
    options = {"config": tmp_path / "elm.json", "tokenizer": str(tmp_path / "tokenizer"), "sampling_rate": 100}
    config = create_elm(tmp_path / "elm", projector="patch", num_ecg_tokens=50, **options).config
    assert config.num_samples == 1000  # 10 s
    reader = AutoProcessor.from_pretrained(tmp_path / "elm").feature_extractor
    ecg = np.random.default_rng(0).normal(size=(12, 1000)).astype(np.float32)
    assert np.allclose(reader(ecg, sampling_rate=100, lead_names=list(LEADS))["ecg_values"], ecg)
    with pytest.raises(ValueError, match="--sampling-rate is for models without an encoder"):
        create_elm(tmp_path / "other", encoder="new", **options)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_new_llms_with_dropout_are_created(family, tmp_path):
    tiny_tokenizer(family).save_pretrained(tmp_path / "tokenizer")
    text_config = {"model_type": family, **SMALL[family]}
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": text_config}))
    model = create_elm(
        tmp_path / "elm",
        config=tmp_path / "elm.json",
        tokenizer=str(tmp_path / "tokenizer"),
        seconds=2,
        num_ecg_tokens=5,
    )
    assert not model.training


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.9, "top_p": 0.6},  # Vicuna 1.5
        {"top_k": 20, "early_stopping": True},
    ],
)
def test_generation_settings_that_are_not_valid_are_dropped(settings, tmp_path, caplog):
    save_llm(tmp_path / "llm", tiny_llm("qwen2").config)
    path = tmp_path / "llm" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    create_elm(tmp_path / "elm", llm=str(tmp_path / "llm"), seconds=2, num_ecg_tokens=5)
    saved = json.loads((tmp_path / "elm" / "generation_config.json").read_text())
    assert not saved.keys() & settings.keys()
    assert saved["eos_token_id"] and saved["suppress_tokens"]
    assert all(name in caplog.text for name in settings)


def test_a_model_of_text_and_pictures_gives_its_text_part(tmp_path):
    text = {
        **{
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
        },
        **{"intermediate_size": 64, "vocab_size": 512, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
    }
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = Gemma3Config(text_config=text, vision_config=vision | {"image_size": 56, "patch_size": 14})
    llm = save_llm(tmp_path / "llm", config).eval()
    model = create_elm(tmp_path / "elm", llm=str(tmp_path / "llm"), seconds=2, num_ecg_tokens=5)
    assert model.config.text_config.model_type == "gemma3_text"
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, llm(input_ids=ids).logits, atol=1e-5)
    assert not any("vision" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("family", ["mamba", "rwkv", "recurrent_gemma", "ctrl", "bert", "bart"])
def test_families_that_are_no_decoders_of_embeddings_are_refused_by_name(family, tmp_path):
    sizes = {
        **{
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "vocab_size": 512,
        },
        **{
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "dff": 64,
            "d_model": 32,
            "decoder_layers": 1,
            "encoder_layers": 1,
        },
        **{"decoder_ffn_dim": 32, "encoder_ffn_dim": 32, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
    }
    save_llm(tmp_path / "llm", AutoConfig.for_model(family, **sizes))
    with pytest.raises(
        ValueError, match=rf'\("{family}"\) is not supported as the LLM of an ECG-language model: .*\.$'
    ):
        create_elm(tmp_path / "elm", llm=str(tmp_path / "llm"), seconds=2, num_ecg_tokens=5)
    assert not (tmp_path / "elm").exists()


@pytest.mark.parametrize(
    "option, message",
    [
        ("slow", "llm: has only a slow tokenizer .*; give one with a tokenizer.json"),
        ("template", "cannot learn the conversation's answers: the chat template drops the answer"),
        ("ecg", "The chat template wrote 0 of the conversation's 1 ECGs"),
        ("positions", 'An ECG takes up to 600 tokens, and the "gpt2" LLM reads at most 512; choose fewer than 512'),
        ("type", '"vit"; expected a causal LLM'),
    ],
)
def test_what_does_not_fit_is_refused_before_the_weights_are_read(option, message, tmp_path):
    config, tokenizer, num_ecg_tokens = tiny_llm("gpt2").config, tiny_tokenizer("gpt2"), 5
    if option == "slow":
        tokenizer = ByT5Tokenizer()
    elif option == "template":
        tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    elif option == "ecg":
        tokenizer.chat_template = (
            "{% for m in messages %}{{ m.content[-8:] if m.role == 'user' else m.content }}{% endfor %}"
        )
    elif option == "positions":
        num_ecg_tokens = 600
    elif option == "type":
        config = AutoConfig.for_model("vit")
    config.save_pretrained(tmp_path / "llm")  # without weights
    tokenizer.save_pretrained(tmp_path / "llm")
    with pytest.raises(ValueError, match=message):
        create_elm(tmp_path / "elm", llm=str(tmp_path / "llm"), seconds=12, num_ecg_tokens=num_ecg_tokens)


def test_symbols_that_fill_the_positions_are_refused(ecg_tokenizer, tmp_path):
    ecg_tokenizer.save_pretrained(tmp_path / "symbols")
    tiny_llm("gpt2").config.save_pretrained(tmp_path / "llm")
    tiny_tokenizer("gpt2").save_pretrained(tmp_path / "llm")
    for largest in (None, 512):
        with pytest.raises(ValueError, match=r'the "gpt2" LLM reads at most 512; .*\(--max-ecg-tokens\)'):
            create_elm(
                tmp_path / "elm",
                llm=str(tmp_path / "llm"),
                representation="symbol",
                ecg_tokenizer=str(tmp_path / "symbols"),
                max_ecg_tokens=largest,
            )


@pytest.mark.parametrize(
    "family, settings, limit",
    [
        ("gpt2", {"n_positions": 64}, 64),
        ("opt", {"max_position_embeddings": 64}, 64),
        ("gptj", {"n_positions": 64}, 64),
        ("llama", {"max_position_embeddings": 64}, None),
        ("bloom", {}, None),
        ("falcon", {"max_position_embeddings": 64, "alibi": True}, None),
        ("nemotron_h", {"max_position_embeddings": 64}, None),
    ],
)
def test_only_tables_of_positions_limit_them(family, settings, limit):
    assert position_limit(AutoConfig.for_model(family, **settings)) == limit


class NoisyConfig(LlamaConfig):
    model_type = "noisy_llama"


class NoisyModel(LlamaModel):
    """An LLM with a buffer that no file holds, and that is drawn anew whenever it is loaded."""

    config_class = NoisyConfig

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("noise", torch.rand(3), persistent=False)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, NoisyModel):
            init.uniform_(module.noise)


class NoisyForCausalLM(LlamaForCausalLM):
    config_class = NoisyConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = NoisyModel(config)
        self.post_init()


def test_an_llm_that_is_loaded_as_another_is_refused(tmp_path):
    AutoConfig.register("noisy_llama", NoisyConfig, exist_ok=True)
    AutoModel.register(NoisyConfig, NoisyModel, exist_ok=True)
    AutoModelForCausalLM.register(NoisyConfig, NoisyForCausalLM, exist_ok=True)
    config = NoisyConfig(
        **{name: value for name, value in tiny_llm("llama").config.to_dict().items() if name != "model_type"}
    )
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        None, NoisyForCausalLM(config), ecg_token_id=500, num_ecg_tokens=5, num_samples=500
    )
    with pytest.raises(
        ValueError, match='"noisy_llama" LLM is not loaded as it was saved: .*language_model.noise differs'
    ):
        save_atomically([model], tmp_path / "elm", check=lambda folder: check_saved(model, folder))
    assert not (tmp_path / "elm").exists()


def test_the_settings_of_new_models_have_names():
    assert {"quickstart_elm", "ptb_xl/small"} <= set(model_names()) and not any(
        "smoke" in name for name in model_names()
    )
    assert json.loads(model_path("quickstart_elm").read_text())["text_config"]["model_type"] == "qwen2"
    with pytest.raises(
        FileNotFoundError, match=r"--config quickstart: neither a file nor .*; available are .*quickstart_elm"
    ):
        model_path("quickstart")
