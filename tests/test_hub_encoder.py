"""Encoders of the Hub that were not made for elm-hf: with code of their own, and those of transformers."""

import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LLM
from safetensors.torch import load_file, save_file
from test_validation import train
from transformers import AutoConfig, AutoModel, AutoProcessor, Wav2Vec2Config, Wav2Vec2Model
from warm_python import run_python

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.hub_encoder import HubEncoder, allow_encoder_code
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.modeling.configuration_hub_encoder import HubEncoderConfig
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.modeling_hub_encoder import HubEncoderModel


# A stranger's encoder: microvolt, samples first, an argument `x`. Each token is the mean of 50 samples of all leads.
CONFIGURATION = """
from transformers import PretrainedConfig

class StrangeConfig(PretrainedConfig):
    model_type = "strange_ecg"

    def __init__(self, width=8, **kwargs):
        self.width = width
        super().__init__(**kwargs)
"""
MODEL = """
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_strange import StrangeConfig

class StrangeModel(PreTrainedModel):
    config_class = StrangeConfig

    def __init__(self, config):
        super().__init__(config)
        self.out = torch.nn.Linear(12, config.width)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, x, mask=None):
        if x.shape[1:] != (200, 12):
            raise RuntimeError(f"expected (batch, 200, 12), got {tuple(x.shape)}")
        return BaseModelOutput(last_hidden_state=self.out(x.unflatten(1, (4, 50)).mean(2)))
"""


@pytest.fixture(scope="module")
def strange(tmp_path_factory) -> Path:
    """The repository of the encoder: code, weights, and a feature extractor's sampling rate."""
    folder = tmp_path_factory.mktemp("hub") / "strange"
    folder.mkdir()
    (folder / "configuration_strange.py").write_text(CONFIGURATION)
    (folder / "modeling_strange.py").write_text(MODEL)
    names = {"AutoConfig": "configuration_strange.StrangeConfig", "AutoModel": "modeling_strange.StrangeModel"}
    config = {"model_type": "strange_ecg", "width": 8, "auto_map": names, "architectures": ["StrangeModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 100, "feature_extractor_type": "Unknown"}')
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Strange\n")
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


def create(folder: Path, encoder: HubEncoder, tiny_elm: Path, **options):
    (folder / "elm.json").write_text(json.dumps({"text_config": TINY_LLM}))
    settings = {"config": folder / "elm.json", "tokenizer": str(tiny_elm), "num_ecg_tokens": 4}
    return create_elm(folder / "elm", hub_encoder=encoder, **settings, **options)


@pytest.fixture(scope="module")
def elm(strange, tiny_elm, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strange_elm")
    encoder = HubEncoder(str(strange), True, layout="samples_first", units="uV")
    create(folder, encoder, tiny_elm, seconds=2, normalization="none")
    return folder / "elm"


def test_the_encoder_reads_the_ecg_as_it_was_described(elm, strange, ecgs):
    processor = AutoProcessor.from_pretrained(elm)
    reader = processor.feature_extractor
    assert (reader.sampling_rate, reader.num_samples, reader.normalization) == (100, 200, "none")
    model = _own(elm)
    values = torch.randn(2, 12, 200)
    with torch.no_grad():
        found = model.model.encoder(values).last_hidden_state
    weights = model.model.encoder.encoder.out
    tokens = np.stack(
        [(1000 * values[:, :, start : start + 50].mean(2)).numpy() for start in range(0, 200, 50)], axis=1
    )
    expected = tokens @ weights.weight.detach().numpy().T + weights.bias.detach().numpy()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-3)


def _own(elm: Path):
    """The model in elm-hf's own classes, as training loads it."""
    allow_encoder_code(str(elm), trust_remote_code=True)
    return ElmForCausalLM.from_pretrained(elm).eval()


def test_the_licence_of_its_card_applies_to_the_new_model(elm):
    config = json.loads((elm / "config.json").read_text())["encoder_config"]
    assert config["license"] == "cc-by-nc-4.0"
    assert "license: cc-by-nc-4.0" in (elm / "README.md").read_text()
    assert str(elm.parent.parent) not in (elm / "config.json").read_text()


# Run by a process that has neither this library nor the encoder's repository.
ANSWER = """
    import sys
    sys.modules["elm_hf"] = None
    import numpy as np, torch
    from transformers import AutoModelForCausalLM, AutoProcessor

    folder, again, ecg, output = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    item = {"type": "ecg", "ecg": np.load(ecg), "sampling_rate": 250}
    messages = [{"role": "user", "content": [item, {"type": "text", "text": "What is the rhythm?"}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    model.save_pretrained(again)
    model = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
    with torch.no_grad():
        np.save(output, model(**inputs).logits.numpy())
"""


def test_the_checkpoint_loads_and_is_saved_again_without_elm_hf_and_the_repository(elm, strange, ecgs, tmp_path):
    copy = Path(shutil.copytree(elm, tmp_path / "copy"))
    np.save(tmp_path / "ecg.npy", ecgs[0])
    words = [str(copy), str(tmp_path / "again"), str(tmp_path / "ecg.npy"), str(tmp_path / "logits.npy")]
    done = run_python(["-c", textwrap.dedent(ANSWER), *words])
    assert done.returncode == 0, done.stderr
    for folder in (copy, tmp_path / "again"):
        assert "from .modeling_strange import StrangeModel" in (folder / "hub_encoder_class.py").read_text()
    processor = AutoProcessor.from_pretrained(elm)
    item = {"type": "ecg", "ecg": ecgs[0], "sampling_rate": 250}
    messages = [{"role": "user", "content": [item, {"type": "text", "text": "What is the rhythm?"}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = _own(elm)(**inputs).logits.numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-5)


def test_its_code_runs_only_with_consent(elm, tiny_elm):
    with pytest.raises(ValueError, match=r'its encoder \(model_type="strange_ecg"\) has code of its own; add --trust'):
        allow_encoder_code(str(elm))
    with pytest.raises(ValueError, match="--trust_remote_code has no effect on this ELM"):
        allow_encoder_code(str(tiny_elm), trust_remote_code=True)
    allow_encoder_code(str(tiny_elm))
    with pytest.raises(ValueError, match=r'model_type="never_seen"\) has code of its own.*trust_remote_code=True'):
        HubEncoderConfig(encoder_config={"model_type": "never_seen"})


def test_a_model_with_such_an_encoder_is_trained_and_its_code_saved_again(elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match="has code of its own; add --trust_remote_code to run it"):
        train(elm, simulated_dataset, tmp_path / "refused", "--max_steps", "1")
    train(elm, simulated_dataset, tmp_path / "out", "--max_steps", "1", "--trust_remote_code", "true")
    assert (tmp_path / "out" / "modeling_strange.py").read_text() == (elm / "modeling_strange.py").read_text()
    before, after = (load_file(folder / "model.safetensors") for folder in (elm, tmp_path / "out"))
    assert not torch.equal(*(weights["model.encoder.encoder.out.weight"] for weights in (before, after)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "leads_first"}, r"does not read a signal of 12 leads and 200 samples as leads_first in `x`"),
        ({"layout": "samples_first", "sampling_rate": 250}, r"of 12 leads and 500 samples as samples_first"),
        (
            {"layout": "sideways"},
            "--encoder-layout is sideways; expected leads_first, samples_first, flat, single_lead",
        ),
        ({"units": "mm"}, "--encoder-units is mm; expected mV, uV, V"),
    ],
)
def test_an_encoder_that_does_not_read_such_a_signal_is_refused(options, message, strange, tiny_elm, tmp_path):
    with pytest.raises(ValueError, match=message):
        create(tmp_path, HubEncoder(str(strange), True, **options), tiny_elm, seconds=2)


def test_an_unknown_sampling_rate_is_asked_for(strange, tiny_elm, tmp_path):
    unknown = Path(shutil.copytree(strange, tmp_path / "unknown"))
    (unknown / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="its sampling rate is not known .*; give --encoder-rate in Hz"):
        create(tmp_path, HubEncoder(str(unknown), True, layout="samples_first"), tiny_elm, seconds=2)


def test_code_with_the_names_of_ours_is_refused(strange, tiny_elm, tmp_path):
    clash = Path(shutil.copytree(strange, tmp_path / "clash"))
    (clash / "modeling_strange.py").rename(clash / "modeling_elm.py")
    for name in ("config.json", "configuration_strange.py"):
        text = (clash / name).read_text().replace("modeling_strange.", "modeling_elm.")
        (clash / name).write_text(text.replace("strange_ecg", "clashing_ecg"))
    with pytest.raises(ValueError, match="its code has the files modeling_elm.py, which are those of elm-hf"):
        create(tmp_path, HubEncoder(str(clash), True, layout="samples_first"), tiny_elm, seconds=2)


def test_an_encoder_of_sound_reads_each_lead_and_keeps_its_normalization(tiny_elm, tmp_path, ecgs):
    """wav2vec 2.0 of transformers, with the settings of its feature extractor, read from `preprocessor_config.json`."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"conv_dim": (8, 8), "conv_stride": (5, 5), "conv_kernel": (10, 5), "num_feat_extract_layers": 2}
    torch.manual_seed(0)
    sound = Wav2Vec2Model(Wav2Vec2Config(**sizes, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)).eval()
    sound.save_pretrained(tmp_path / "sound")
    (tmp_path / "sound" / "preprocessor_config.json").write_text('{"sampling_rate": 160, "do_normalize": true}')
    encoder = HubEncoder(str(tmp_path / "sound"), layout="single_lead")
    model = create(tmp_path, encoder, tiny_elm, seconds=2, leads=["I", "V2"])
    reader = AutoProcessor.from_pretrained(tmp_path / "elm").feature_extractor
    assert (reader.sampling_rate, reader.num_samples, reader.normalization) == (160, 320, "z_score")
    assert reader.leads == ["I", "V2"]
    values = torch.randn(3, 2, 320)
    with torch.no_grad():
        found = model.model.encoder(values).last_hidden_state
        of_leads = [sound(values[:, lead]).last_hidden_state for lead in range(2)]
    torch.testing.assert_close(found, torch.cat(of_leads, dim=1))
    loaded, _ = load_checkpoint(tmp_path / "elm")
    assert isinstance(loaded.model.encoder, HubEncoderModel)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.encoder(values).last_hidden_state, found)


def test_a_flat_layout_has_one_lead_after_the_other():
    config = HubEncoderConfig(
        encoder_config=Wav2Vec2Config(
            **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
            **{"conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (10,), "num_feat_extract_layers": 1},
            **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
        ),
        layout="flat",
        num_samples=100,
        hidden_size=16,
    )
    model = HubEncoderModel(config).eval()
    values = torch.randn(2, 12, 100)
    with torch.no_grad():
        found = model(values).last_hidden_state
        expected = model.encoder(torch.cat([values[:, lead] for lead in range(12)], dim=1)).last_hidden_state
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match=r"must have the shape \(batch_size, 12, 100\), got \(2, 12, 99\)"):
        model(values[:, :, 1:])
