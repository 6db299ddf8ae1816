"""Which code travels with a checkpoint, and that it loads without this library and is saved again."""

import json
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_compositions import COMPOSITIONS, ECG_ENCODERS, compose, conversation
from transformers import AutoConfig

from elm_hf import modeling
from elm_hf.modeling import ecg_encoders
from elm_hf.modeling.configuration_elm import ElmConfig


CONFIGURATION = {"auto_classes", "own_encoder", "configuration_elm", "ecg_encoders"}
MODEL = CONFIGURATION | {
    "card_elm",
    "composition_elm",
    "generation_elm",
    "llm_parts",
    "modeling_elm",
    "modeling_elm_encoder",
    "modeling_elm_projector",
    "packed_attention",
}
PROCESSOR = {
    "card_elm",
    "chat_rendering",
    "chat_turns",
    "ecg_download",
    "device_files",
    "ecg_modalities",
    "ecg_leads",
    "ecg_pictures",
    "ecg_quality",
    "ecg_reading",
    "ecg_resampling",
    "ecg_segments",
    "feature_extraction_ecg",
    "folder_paths",
    "measured_values",
    "own_measurements",
    "processing_elm_base",
    "reading_process",
    "turn_format",
    "wfdb_header",
    "wfdb_signals",
}
SIGNAL = MODEL | PROCESSOR | {"processing_elm"}
VISION = MODEL | PROCESSOR | {"ecg_raster", "image_processing_ecg", "processing_elm_vision"}
BOTH = VISION - {"processing_elm_vision"} | {"processing_elm_signal_vision"}
# A second tokenizer has a folder of its own, in which transformers saves its code, too.
SYMBOL = MODEL | PROCESSOR | {"processing_elm_symbol", "tokenization_ecg_byte"}
SYMBOL |= {"ecg_tokenizer/auto_classes", "ecg_tokenizer/tokenization_ecg_byte"}
RESNET = {"configuration_ecg_resnet", "encoder_parts", "modeling_ecg_resnet"}
ST_MEM = {"configuration_ecg_vit", "configuration_st_mem", "encoder_parts", "modeling_ecg_vit", "modeling_st_mem"}
MAEFE = {"configuration_ecg_vit", "configuration_maefe", "modeling_ecg_vit", "modeling_maefe"}
HUBERT_ECG = {"configuration_hubert_ecg", "encoder_parts", "modeling_hubert_ecg", "modeling_ecg_hubert"}
MERL = {"configuration_merl", "modeling_merl", "modeling_merl_projection"} | RESNET
MERL |= {"configuration_ecg_vit", "modeling_ecg_vit"}
CODE = {
    "signal-patch": SIGNAL,
    "signal-ecg_resnet-mlp": SIGNAL | RESNET,
    "signal-st_mem-linear": SIGNAL | ST_MEM,
    "signal-mlae-mlp": SIGNAL | MAEFE,
    "signal-merl-vit-mlp": SIGNAL | MERL,
    "signal-hubert_ecg-mlp": SIGNAL | HUBERT_ECG,
    "image-vit-mlp": VISION,
    "both-st_mem-siglip2": BOTH | ST_MEM,
    "measuring-patch": SIGNAL | {"ecg_measurements", "ecg_delineation"},
    "symbol": SYMBOL,
}


def code_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder).with_suffix("")): path.read_text(encoding="utf-8")
        for path in folder.rglob("*.py")
    }


@pytest.fixture(scope="module")
def checkpoints(ecg_tokenizer, tmp_path_factory) -> Path:
    """A folder with a checkpoint of each composition of `CODE`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in CODE:
        for part in compose(COMPOSITIONS[name], "qwen2", ecg_tokenizer):
            part.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("name", CODE)
def test_a_checkpoint_carries_the_code_that_it_uses(name, checkpoints):
    assert code_of(checkpoints / name).keys() == CODE[name]


def test_the_code_of_a_checkpoint_is_this_librarys_but_for_the_import_of_the_encoder(checkpoints):
    own = code_of(Path(modeling.__file__).parent)
    for name in ("signal-patch", "signal-st_mem-linear"):
        saved = code_of(checkpoints / name)
        link = saved.pop("own_encoder").splitlines()
        assert saved == {module: own[module] for module in saved}
        assert link[:-1] == own["own_encoder"].splitlines()[:-1]
    assert link[-1] == "from .modeling_st_mem import StMemModel as ENCODER_CLASS"
    assert code_of(checkpoints / "signal-patch")["own_encoder"] == own["own_encoder"]


def test_each_encoder_is_found_by_the_type_of_its_configuration():
    for model_type, (module, name) in ecg_encoders.ECG_ENCODERS.items():
        encoder_class = getattr(import_module(f"elm_hf.modeling.{module}"), name)
        assert ecg_encoders.find_ecg_encoder(model_type) is encoder_class
        assert encoder_class.config_class.model_type == model_type


# Run by a process that has neither this library nor Pillow.
WITHOUT_PILLOW = """
    import sys
    sys.modules["elm_hf"] = sys.modules["PIL"] = None
    from pathlib import Path
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

    def load(auto_class, folder):
        return auto_class.from_pretrained(folder, trust_remote_code=True)

    torch.set_num_threads(1)
    checkpoints, output, *names = sys.argv[1:]
    checkpoints, output = Path(checkpoints), Path(output)
    ecgs = load_file(output / "ecgs.safetensors")["ecgs"].numpy()
    items = [{"type": "ecg", "ecg": ecg, "sampling_rate": 250} for ecg in ecgs]
    content = [*items, {"type": "text", "text": "What is the rhythm?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "sinus rhythm"}]
    logits = {}
    for name in names:
        processor = load(AutoProcessor, checkpoints / name)
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        config, backbone = load(AutoConfig, checkpoints / name), load(AutoModel, checkpoints / name)
        model = load(AutoModelForCausalLM, checkpoints / name)
        with torch.no_grad():
            logits[name] = model(**inputs).logits.contiguous()
            assert torch.equal(model.lm_head(backbone(**inputs).last_hidden_state), logits[name])
        model.save_pretrained(output / name)
        processor.save_pretrained(output / name)
    save_file(logits, output / "logits.safetensors")

    # An encoder of one checkpoint, in a model with the code of another one.
    load(AutoModel, checkpoints / "signal-mlae-mlp").encoder.save_pretrained(output / "encoder")
    free = load(AutoModelForCausalLM, checkpoints / "signal-patch")
    for source in (str(checkpoints / "signal-merl-vit-mlp"), load(AutoModel, output / "encoder"), None):
        try:
            composed = free.from_encoder_llm_pretrained(
                source, AutoModelForCausalLM.from_config(free.config.text_config),
                ecg_token_id=free.config.ecg_token_id, num_samples=500, num_ecg_tokens=5,
            )
        except ValueError as error:
            assert "trust_remote_code" in str(error), error
            continue
        composed.save_pretrained(output / ("composed" if source else "composed-free"))
    try:
        type(free.config)(encoder_config={"model_type": "merl"})
    except ValueError as error:
        assert 'there is no code for model_type="merl" here' in str(error), error
    else:
        raise AssertionError("a checkpoint without MERL's code made a configuration of it")
    assert not [name for name in sys.modules if "ecg_raster" in name or "image_processing_ecg" in name]
"""
SIGNALS_AND_SYMBOLS = [name for name, code in CODE.items() if "image_processing_ecg" not in code]


@pytest.fixture(scope="module")
def saved_again(checkpoints, ecgs_of_module, tmp_path_factory) -> Path:
    """What `WITHOUT_PILLOW` saved."""
    folder = tmp_path_factory.mktemp("again")
    save_file({"ecgs": torch.from_numpy(ecgs_of_module)}, folder / "ecgs.safetensors")
    code = [sys.executable, "-c", textwrap.dedent(WITHOUT_PILLOW), str(checkpoints), str(folder)]
    done = subprocess.run([*code, *SIGNALS_AND_SYMBOLS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def ecgs_of_module():
    return torch.randn(2, 12, 500, generator=torch.Generator().manual_seed(0)).numpy() * 0.3


def test_models_of_signals_and_symbols_need_neither_this_library_nor_pillow(
    checkpoints, saved_again, ecgs_of_module, ecg_tokenizer
):
    """Checkpoints with different encoders load in one process, each with its own code."""
    found = load_file(saved_again / "logits.safetensors")
    assert sorted(found) == sorted(SIGNALS_AND_SYMBOLS)
    for name, logits in found.items():
        model, processor = compose(COMPOSITIONS[name], "qwen2", ecg_tokenizer)
        model = model.from_pretrained(checkpoints / name)
        inputs = processor.apply_chat_template(
            conversation(ecgs_of_module), tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            torch.testing.assert_close(logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)


def without_dtype(config: dict) -> dict:
    """transformers notes the precision of parts that it has loaded."""
    return {
        name: without_dtype(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name != "dtype"
    }


@pytest.mark.parametrize("name", SIGNALS_AND_SYMBOLS)
def test_a_checkpoint_that_is_saved_again_carries_the_same_code(name, checkpoints, saved_again):
    assert code_of(saved_again / name) == code_of(checkpoints / name)
    before, after = (
        without_dtype(json.loads((folder / name / "config.json").read_text())) for folder in (checkpoints, saved_again)
    )
    assert after == before


def test_an_encoder_of_another_checkpoint_brings_its_code(saved_again):
    code = code_of(saved_again / "composed")
    assert code.keys() == MODEL | MAEFE
    assert code["own_encoder"].endswith("from .modeling_maefe import MlaeModel as ENCODER_CLASS\n")
    assert code_of(saved_again / "composed-free").keys() == MODEL
    model = import_module("elm_hf.modeling.modeling_elm").ElmForCausalLM.from_pretrained(saved_again / "composed")
    assert type(model.model.encoder).__name__ == "MlaeModel"


def test_a_configuration_alone_carries_the_code_that_loads_it(tmp_path):
    ElmConfig(encoder_config=ECG_ENCODERS["st_mem"]).save_pretrained(tmp_path)
    assert code_of(tmp_path).keys() == CONFIGURATION | ST_MEM


def test_saved_configurations_of_encoders_hold_what_they_held():
    """Fields that the masked autoencoders share are declared once; their files are as before."""
    shared = {"num_samples": 2250, "num_leads": 12, "hidden_size": 768, "num_hidden_layers": 12}
    shared |= {"num_attention_heads": 12, "intermediate_size": 3072, "decoder_hidden_size": 256}
    shared |= {"decoder_num_hidden_layers": 4, "decoder_num_attention_heads": 4, "decoder_intermediate_size": 1024}
    shared |= {"mask_ratio": 0.75, "norm_pix_loss": True, "initializer_range": 0.02}
    for model_type, name, own in (
        ("st_mem", "st_mem.StMem", {"patch_size": 75}),
        ("mtae", "maefe.Mtae", {"patch_size": 75}),
        ("mlae", "maefe.Mlae", {}),
    ):
        auto_map = {
            "AutoConfig": f"configuration_{name}Config",
            "AutoModel": f"modeling_{name}Model",
            "AutoModelForPreTraining": f"modeling_{name}ForPreTraining",
        }
        saved = AutoConfig.for_model(model_type).to_diff_dict()
        del saved["transformers_version"]
        assert saved == shared | own | {"model_type": model_type, "auto_map": auto_map}
