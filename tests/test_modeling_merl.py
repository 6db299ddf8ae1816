"""MERL against a restatement of its formulas, converted from published-style files, in training and in zero-shot use."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import wfdb
from transformers import AutoModel, BertConfig, BertModel
from warm_python import run_python, start_python

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.modeling.configuration_merl import MerlConfig
from elm_hf.modeling.modeling_merl import MerlForPreTraining, MerlModel


WIDTH = 16  # of the shared space
TEXT = BertConfig(
    vocab_size=40,
    hidden_size=64,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=32,
    max_position_embeddings=32,
)
TINY = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1]},
    "vit": {"encoder_type": "vit", "hidden_size": 48, "num_hidden_layers": 2, "patch_size": 20},
}


def tiny(encoder: str, **settings) -> MerlForPreTraining:
    torch.manual_seed(0)
    config = MerlConfig(num_samples=160, projection_dim=WIDTH, text_config=TEXT, **TINY[encoder], **settings)
    return MerlForPreTraining(config).eval()


def pairs(batch: int, num_samples: int = 160, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, 6, dtype=torch.long)
    mask[0, 4:] = 0
    return {
        "ecg_values": torch.rand(batch, 12, num_samples, generator=generator),
        "input_ids": torch.randint(0, 40, (batch, 6), generator=generator),
        "attention_mask": mask,
    }


# The reference, restated: float64, functions of a state dict with the published names.


class Published(dict):
    """Random weights under the published names."""

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, key: str, *shape: int, scale: float = 0.3):
        self[key] = scale * torch.randn(*shape, generator=self.generator)

    def linear(self, name: str, out: int, width: int):
        self.add(f"{name}.weight", out, width)
        self.add(f"{name}.bias", out)

    def norm(self, name: str, width: int, is_batch_norm: bool = True):
        self[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=self.generator)
        self.add(f"{name}.bias", width)
        if is_batch_norm:
            self.add(f"{name}.running_mean", width)
            self[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=self.generator)
            self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def resnet(self, depths: list[int], widths: list[int], expansion: int = 1):
        self.add("conv1.weight", widths[0], 12, 7)
        self.norm("bn1", widths[0])
        channels = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths), start=1):
            for index in range(depth):
                block = f"layer{stage}.{index}"
                kernels = [(width, channels, 3), (width, width, 3)]
                if expansion == 4:
                    kernels = [(width, channels, 1), (width, width, 3), (4 * width, width, 1)]
                for number, shape in enumerate(kernels, start=1):
                    self.add(f"{block}.conv{number}.weight", *shape)
                    self.norm(f"{block}.bn{number}", shape[0])
                if channels != width * expansion or (stage > 1 and index == 0):
                    self.add(f"{block}.shortcut.0.weight", width * expansion, channels, 1)
                    self.norm(f"{block}.shortcut.1", width * expansion)
                channels = width * expansion
        self.linear("linear", 10, channels)
        return self

    def vit(self, depth: int, width: int, heads: int, patch_size: int = 50, num_patches: int = 100):
        self.add("to_patch_embedding.weight", width, 12, patch_size)
        self.add("pos_embedding", 1, num_patches, width)
        for block in (f"block{index}" for index in range(depth)):
            self.norm(f"{block}.attn.norm", width, is_batch_norm=False)
            self.linear(f"{block}.attn.fn.to_qkv", 3 * heads * 64, width)
            self.linear(f"{block}.attn.fn.to_out.0", width, heads * 64)
            self.norm(f"{block}.ff.norm", width, is_batch_norm=False)
            self.linear(f"{block}.ff.fn.net.0", 2 * width, width)
            self.linear(f"{block}.ff.fn.net.3", width, 2 * width)
        self.norm("norm", width, is_batch_norm=False)
        return self

    def full(self, hidden_size: int, inner: int | None = None):
        """The contrastive model around the encoder that is here already; `inner` is the width inside its projections."""
        inner = inner or WIDTH
        is_resnet = "conv1.weight" in self
        for key in list(self):
            self[f"ecg_encoder.{key}"] = self.pop(key)
        if is_resnet:
            self.add("downconv.weight", WIDTH, hidden_size, 1)
            self.add("downconv.bias", WIDTH)
            self.add("att_pool_head.positional_embedding", 1, 314, WIDTH)
            self.add("att_pool_head.cls_token", 1, 1, WIDTH)
            self.add("att_pool_head.mhsa.in_proj_weight", 3 * WIDTH, WIDTH)
            self.add("att_pool_head.mhsa.in_proj_bias", 3 * WIDTH)
            self.linear("att_pool_head.mhsa.out_proj", WIDTH, WIDTH)
            self.linear("att_pool_head.c_proj", WIDTH, WIDTH)
        else:
            self.linear("proj_e.0", inner, hidden_size)
            self.norm("proj_e.1", inner)
            self.linear("proj_e.3", WIDTH, inner)
            self.norm("proj_e.4", WIDTH)
        for number in (1, 2):
            self.add(f"linear{number}.weight", WIDTH, WIDTH if is_resnet else hidden_size)
        self.linear("proj_t.0", inner, TEXT.hidden_size)
        self.linear("proj_t.2", WIDTH, inner)
        torch.manual_seed(1)
        for key, value in BertModel(TEXT).state_dict().items():
            self[f"lm_model.{key}"] = value
        self["lm_model.embeddings.position_ids"] = torch.arange(32)[None]
        return self


def part(weights: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value.double() for key, value in weights.items() if key.startswith(prefix)}


def batch_norm(x, w, name):
    return F.batch_norm(
        x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5
    )


def resnet_map(w: dict, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(batch_norm(F.conv1d(x, w["conv1.weight"], stride=2, padding=3), w, "bn1"))
    for stage in (1, 2, 3, 4):
        for index in range(sum(f"layer{stage}.{i}.conv1.weight" in w for i in range(40))):
            block, residual = f"layer{stage}.{index}", x
            stride = 2 if stage > 1 and index == 0 else 1
            strides = (1, stride, 1) if f"{block}.conv3.weight" in w else (stride, 1)
            for number, step in enumerate(strides, start=1):
                kernel = w[f"{block}.conv{number}.weight"]
                x = F.conv1d(x, kernel, stride=step, padding=kernel.shape[2] // 2)
                x = batch_norm(x, w, f"{block}.bn{number}")
                x = F.relu(x) if number < len(strides) else x
            if f"{block}.shortcut.0.weight" in w:
                residual = F.conv1d(residual, w[f"{block}.shortcut.0.weight"], stride=stride)
                residual = batch_norm(residual, w, f"{block}.shortcut.1")
            x = F.relu(x + residual)
    return x


def layer_norm(x, w, name):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def vit_tokens(w: dict, x: torch.Tensor) -> torch.Tensor:
    kernel = w["to_patch_embedding.weight"]
    patches = x.unfold(2, kernel.shape[2], kernel.shape[2])  # (batch, leads, patches, samples)
    x = torch.einsum("blns,dls->bnd", patches, kernel) + w["pos_embedding"]
    for block in (f"block{i}" for i in range(40) if f"block{i}.attn.norm.weight" in w):
        q, k, v = linear(layer_norm(x, w, f"{block}.attn.norm"), w, f"{block}.attn.fn.to_qkv").chunk(3, dim=-1)
        heads = []
        for head in range(q.shape[-1] // 64):
            own = slice(64 * head, 64 * head + 64)
            weights = (q[..., own] @ k[..., own].transpose(1, 2) / 8).softmax(dim=-1)
            heads.append(weights @ v[..., own])
        x = x + linear(torch.cat(heads, dim=-1), w, f"{block}.attn.fn.to_out.0")
        hidden = F.gelu(linear(layer_norm(x, w, f"{block}.ff.norm"), w, f"{block}.ff.fn.net.0"))
        x = x + linear(hidden, w, f"{block}.ff.fn.net.3")
    return x


def resnet_heads(w: dict, feature_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    g = F.conv1d(feature_map, w["downconv.weight"], w["downconv.bias"])
    pool = part(w, "att_pool_head.")
    positions = pool["positional_embedding"][0]
    tokens = torch.cat([(pool["cls_token"][0] + positions[0]).expand(len(g), 1, -1), g.transpose(1, 2)], 1) + positions
    attention = torch.nn.MultiheadAttention(WIDTH, 4, batch_first=True).double()
    attention.load_state_dict(part(pool, "mhsa."))
    pooled = attention(tokens[:, :1], tokens, tokens)[0][:, 0]
    return linear(pooled, pool, "c_proj"), g.mean(dim=2)


def vit_heads(w: dict, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pooled = layer_norm(tokens.mean(dim=1), w, "ecg_encoder.norm")
    hidden = F.relu(batch_norm(linear(pooled, w, "proj_e.0"), w, "proj_e.1"))
    return batch_norm(linear(hidden, w, "proj_e.3"), w, "proj_e.4"), pooled


def clip(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    s = a @ b.T / 0.07
    return -(s.log_softmax(dim=1).diag().mean() + s.log_softmax(dim=0).diag().mean())


def reference(weights: Published, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Everything that the contrastive model computes, in evaluation mode."""
    w, x = part(weights, ""), inputs["ecg_values"].double()
    if "downconv.weight" in w:
        hidden = resnet_map(part(w, "ecg_encoder."), x)
        ecg, features = resnet_heads(w, hidden)
        hidden = hidden.transpose(1, 2)
    else:
        hidden = vit_tokens(part(w, "ecg_encoder."), x)
        ecg, features = vit_heads(w, hidden)
    bert = BertModel(TEXT).double().eval()
    bert.load_state_dict({key: v for key, v in part(w, "lm_model.").items() if key != "embeddings.position_ids"})
    pooled = bert(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
    text = linear(F.gelu(linear(pooled, w, "proj_t.0")), w, "proj_t.2")
    return {
        "last_hidden_state": hidden,
        "ecg": ecg,
        "text": text,
        "cma_loss": clip(ecg, text),
        "uma_loss": clip(features @ w["linear1.weight"].T, features @ w["linear2.weight"].T),
    }


def close(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    """Within 1e-4 of the largest value."""
    return (ours.double() - expected).abs().max() <= 1e-4 * expected.abs().max()


ENCODERS = {
    "basic": lambda: Published().resnet([2, 1, 1, 1], [8, 8, 12, 16]),
    "bottleneck": lambda: Published().resnet([1, 2, 1, 1], [4, 4, 6, 8], expansion=4),
    "vit": lambda: Published().vit(depth=2, width=48, heads=3),
}
HIDDEN_SIZES = {"basic": 16, "bottleneck": 32, "vit": 48}


def converted(weights: dict, folder) -> MerlModel | MerlForPreTraining:
    torch.save(dict(weights), folder / "published.pth")
    return convert_checkpoint("merl", folder / "published.pth", folder / "out")[0]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_published_encoder_gives_the_references_tokens(encoder, tmp_path):
    weights = ENCODERS[encoder]()
    model = converted(weights, tmp_path)
    ecgs = torch.rand(2, 12, 5000, generator=torch.Generator().manual_seed(3))
    w = part(weights, "")
    expected = vit_tokens(w, ecgs.double()) if encoder == "vit" else resnet_map(w, ecgs.double()).transpose(1, 2)
    with torch.no_grad():
        hidden = model(ecgs).last_hidden_state
    assert hidden.shape == (2, 100 if encoder == "vit" else 313, HIDDEN_SIZES[encoder])
    assert model.config.hidden_size == HIDDEN_SIZES[encoder]
    assert close(hidden, expected)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("batch, inner", [(1, None), (3, None), (3, 20)])
def test_a_published_model_gives_the_references_embeddings_and_losses(encoder, batch, inner, tmp_path):
    weights = ENCODERS[encoder]().full(HIDDEN_SIZES[encoder], inner)
    model = converted(weights, tmp_path)
    inputs = pairs(batch, 5000)
    expected = reference(weights, inputs)
    with torch.no_grad():
        outputs = model(**inputs)
        ecg = model.get_ecg_features(inputs["ecg_values"])
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    assert close(ecg.last_hidden_state, expected["last_hidden_state"])
    assert close(ecg.pooler_output, expected["ecg"])
    assert close(text.pooler_output, expected["text"])
    assert close(outputs.ecg_embeds, F.normalize(expected["ecg"]))
    assert close(outputs.logits_per_ecg, F.normalize(expected["ecg"]) @ F.normalize(expected["text"]).T / 0.07)
    for name in ("cma_loss", "uma_loss"):
        assert outputs[name].item() == pytest.approx(expected[name].item(), rel=1e-4, abs=1e-6)
    assert outputs.loss == outputs.cma_loss + outputs.uma_loss


@pytest.mark.parametrize(
    "settings, expected",
    [
        # published counts; the ResNets' include an unused classifier of 10 classes
        ({}, 3_853_962 - 10 * (512 + 1)),
        (
            {"layer_type": "bottleneck", "depths": [3, 4, 23, 3], "hidden_sizes": [256, 512, 1024, 2048]},
            28_287_114 - 10 * (2048 + 1),
        ),
        ({"encoder_type": "vit"}, 5_473_152),
    ],
)
def test_parameters_are_as_many_as_published(settings, expected):
    with torch.device("meta"):
        assert MerlModel(MerlConfig(**settings)).num_parameters() == expected


def test_the_text_tower_is_medcpts_by_default():
    with torch.device("meta"):
        assert MerlForPreTraining(MerlConfig()).text_model.num_parameters() == 109_482_240


@pytest.mark.parametrize(
    "depths, expansion",
    [([3, 4, 6, 3], 1), ([3, 4, 6, 3], 4), ([3, 8, 36, 3], 4)],
    ids=["resnet34", "resnet50", "resnet152"],
)
def test_every_size_of_resnet_is_recognised(depths, expansion, tmp_path):
    config = converted(Published().resnet(depths, [2, 2, 2, 2], expansion), tmp_path).config
    assert config.depths == depths
    assert config.hidden_sizes == [2 * expansion] * 4
    assert config.layer_type == ("basic" if expansion == 1 else "bottleneck")


def test_what_is_left_out_is_named(tmp_path, caplog):
    converted(ENCODERS["basic"]().full(16), tmp_path)
    left_out = "left out ecg_encoder.linear.bias, ecg_encoder.linear.weight, lm_model.embeddings.position_ids,"
    assert left_out in caplog.text


@pytest.mark.parametrize("encoder", ["basic", "vit"])
def test_of_a_file_without_a_text_tower_the_encoder_is_converted(encoder, tmp_path, caplog):
    weights = ENCODERS[encoder]().full(HIDDEN_SIZES[encoder])
    weights = {key: value for key, value in weights.items() if not key.startswith("lm_model.")}
    model = converted(weights, tmp_path)
    assert type(model) is MerlModel
    assert "has no text tower (lm_model.*); left out " in caplog.text and "proj_t.2.weight" in caplog.text
    ecgs = torch.rand(1, 12, 5000, generator=torch.Generator().manual_seed(3))
    w = part(weights, "ecg_encoder.")
    expected = vit_tokens(w, ecgs.double()) if encoder == "vit" else resnet_map(w, ecgs.double()).transpose(1, 2)
    with torch.no_grad():
        assert close(model(ecgs).last_hidden_state, expected)


@pytest.mark.parametrize("encoder", ["basic", "vit"])
def test_unknown_missing_and_misshapen_weights_are_listed(encoder, tmp_path):
    weights = ENCODERS[encoder]().full(HIDDEN_SIZES[encoder])
    weights["temperature"] = torch.zeros(1)
    del weights["proj_t.2.bias"]
    weights["linear2.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="temperature.*missing: proj_t.2.bias.*another shape: linear2.weight"):
        converted(weights, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_missing_block_is_named(tmp_path):
    weights = {key: value for key, value in ENCODERS["basic"]().items() if not key.startswith("layer1.0.conv")}
    with pytest.raises(ValueError, match="missing: layer1.0.conv1.weight, layer1.0.conv2.weight"):
        converted(weights, tmp_path)


@pytest.mark.parametrize(
    "weights",
    [{"conv1.weight": torch.zeros(2, 12, 7), "fc.weight": torch.zeros(2, 2)}, BertModel(TEXT).state_dict()],
    ids=["convolution", "bert"],
)
def test_other_architectures_are_refused(weights, tmp_path):
    with pytest.raises(ValueError, match="not a checkpoint of merl"):
        converted(weights, tmp_path)


def test_an_encoder_of_fewer_leads_is_refused(tmp_path):
    weights = ENCODERS["basic"]()
    weights["conv1.weight"] = weights["conv1.weight"][:, :8]
    with pytest.raises(ValueError, match="reads 8 leads; expected 12"):
        converted(weights, tmp_path)


LOAD_IN_FRESH_PROCESS = """
import sys
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

sys.modules["elm_hf"] = None
folder, record, vit_folder = sys.argv[1:]
feature_extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
vit = AutoModel.from_pretrained(vit_folder, trust_remote_code=True)
ecg_values = feature_extractor(record, return_tensors="pt")["ecg_values"]
inputs = torch.load(folder + "/inputs.pt")
with torch.no_grad():
    scores = model.classify(ecg_values, **inputs)
    hidden, tokens = encoder(ecg_values).last_hidden_state, vit(ecg_values).last_hidden_state
outputs = {"ecg_values": ecg_values, "scores": scores, "hidden": hidden, "tokens": tokens}
torch.save(outputs, folder + "/outputs.pt")
"""


def test_a_record_reaches_the_converted_model_in_mimics_order_in_a_fresh_process(shared_data, tmp_path):
    record = shared_data / "ptb_xl" / "records500" / "06000" / "06000_hr"
    weights, vit = ENCODERS["basic"]().full(16), ENCODERS["vit"]()
    (tmp_path / "vit").mkdir()
    converted(vit, tmp_path / "vit")
    converted(weights, tmp_path)
    inputs = {key: value for key, value in pairs(3).items() if key != "ecg_values"}
    torch.save(inputs, tmp_path / "out" / "inputs.pt")
    folders = (tmp_path / "out", record, tmp_path / "vit" / "out")
    result = run_python(["-c", LOAD_IN_FRESH_PROCESS, *folders], cwd=tmp_path)
    assert result.returncode == 0, result.stderr

    signal = wfdb.rdrecord(str(record))
    assert (signal.fs, signal.sig_len, signal.sig_name[4:6]) == (500, 5000, ["AVL", "AVF"])
    ecg = signal.p_signal.T[[0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]]
    ecg = torch.tensor((ecg - ecg.min()) / (ecg.max() - ecg.min() + 1e-8))[None]
    expected = reference(weights, {"ecg_values": ecg, **inputs})
    outputs = torch.load(tmp_path / "out" / "outputs.pt")
    assert close(outputs["ecg_values"], ecg)
    assert close(outputs["hidden"], expected["last_hidden_state"])
    assert close(outputs["tokens"], vit_tokens(part(vit, ""), ecg))
    assert close(outputs["scores"], F.normalize(expected["ecg"]) @ F.normalize(expected["text"]).T)


def test_the_feature_extractor_places_leads_by_name_in_mimics_order(tmp_path):
    torch.save(dict(ENCODERS["vit"]()), tmp_path / "published.pth")
    _, feature_extractor = convert_checkpoint("merl", tmp_path / "published.pth", tmp_path / "out")
    # row k of the usual order is k mV, with ripples of 1 µV, since flat leads count as missing
    named = np.arange(12, dtype=np.float64)[:, None] + np.tile([0.0, 0.001], (12, 2500))
    usual = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    values = feature_extractor(named, sampling_rate=500, lead_names=usual)["ecg_values"][0, :, 0]
    assert np.allclose(values * 11.001, [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11], atol=1e-4)


@pytest.mark.parametrize("encoder", TINY)
def test_leads_cannot_be_left_out(encoder):
    model = tiny(encoder).merl
    with pytest.raises(ValueError, match=r"12 leads.*\(2, 11, 160\)"):
        model(torch.rand(2, 11, 160))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, [3, 7]] = False
    with pytest.raises(ValueError, match=r"ECG 2 of 2 lacks those in rows \[3, 7\]"):
        model(torch.rand(2, 12, 160), ecg_lead_mask=mask)


def test_the_resnet_encodes_any_length_and_the_attention_pool_its_own():
    model = tiny("resnet")
    for num_samples, tokens in ((160, 10), (161, 11), (2500, 157), (1250, 79), (500, 32)):
        assert model.merl(torch.rand(1, 12, num_samples)).last_hidden_state.shape == (1, tokens, 16)
    for num_samples in (145, 160):
        assert model.get_ecg_features(torch.rand(1, 12, num_samples)).pooler_output.shape == (1, WIDTH)
    with pytest.raises(ValueError, match="positions for the 10 tokens of 160 samples; 161 samples make 11"):
        model(**pairs(2, 161))


def test_the_vit_encodes_whole_patches_up_to_its_length():
    model = tiny("vit").merl
    assert model(torch.rand(1, 12, 60)).last_hidden_state.shape == (1, 3, 48)
    for num_samples in (50, 180):
        with pytest.raises(ValueError, match=f"patches of 20 samples.*160 samples; got {num_samples}"):
            model(torch.rand(1, 12, num_samples))


@pytest.mark.parametrize("encoder", TINY)
def test_zero_shot_classification_picks_the_nearest_prompt(encoder):
    model = tiny(encoder)
    inputs = pairs(4)
    with torch.no_grad():
        prompts = F.normalize(model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output)
        # The last layer before the shared space is solved for embeddings that are prompts 2, 0, 3 and 1.
        last = model.ecg_projection.attention_pool.projection if encoder == "resnet" else model.ecg_projection.linear_2
        seen = []
        hook = last.register_forward_hook(lambda module, args, output: seen.append(args[0]))
        model.get_ecg_features(inputs["ecg_values"])
        hook.remove()
        last.weight.copy_((torch.linalg.pinv(seen[0]) @ prompts[[2, 0, 3, 1]]).T)
        last.bias.zero_()
        scores = model.classify(inputs["ecg_values"], inputs["input_ids"], inputs["attention_mask"])
    assert scores.argmax(dim=1).tolist() == [2, 0, 3, 1]
    assert torch.allclose(scores, prompts[[2, 0, 3, 1]] @ prompts.T, atol=1e-3)


def test_unequal_numbers_of_ecgs_and_texts_have_scores_but_no_loss():
    model, inputs = tiny("resnet"), pairs(3)
    inputs["ecg_values"] = inputs["ecg_values"][:2]
    with pytest.raises(ValueError, match="got 2 ECGs and 3 reports"):
        model(**inputs)
    outputs = model(**inputs, return_loss=False)
    assert outputs.loss is None
    scores = model.classify(inputs["ecg_values"], inputs["input_ids"], inputs["attention_mask"])
    assert torch.allclose(outputs.logits_per_ecg * 0.07, scores, atol=1e-6)


@pytest.mark.parametrize("encoder", TINY)
def test_training_lowers_the_loss_and_leaves_the_text_tower_alone(encoder, tmp_path):
    tiny(encoder).save_pretrained(tmp_path)
    model = MerlForPreTraining.from_pretrained(tmp_path)
    before = {key: value.clone() for key, value in model.text_model.state_dict().items()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(learning) == len(list(model.parameters())) - len(list(model.text_model.parameters()))
    optimizer = torch.optim.AdamW(learning, lr=3e-3)
    model.train()
    losses = []
    for _ in range(25):
        loss = model(**pairs(8)).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in learning)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert all(torch.equal(value, before[key]) for key, value in model.text_model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pre_training_starts_from_a_pre_trained_text_tower(dtype, tmp_path):
    torch.manual_seed(5)
    bert = BertModel(copy.deepcopy(TEXT)).eval().to(dtype)
    bert.save_pretrained(tmp_path)
    bert.float()
    model = MerlForPreTraining.from_text_pretrained(str(tmp_path), num_samples=160, **TINY["resnet"]).eval()
    input_ids = torch.tensor([[3, 4, 5]])
    expected = model.text_projection(bert(input_ids).pooler_output)
    assert torch.allclose(model.get_text_features(input_ids).pooler_output, expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in model.text_model.parameters())


@pytest.mark.parametrize("encoder", TINY)
def test_attention_implementations_agree(encoder):
    model, inputs = tiny(encoder), pairs(2)
    losses = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        assert model.merl.config._attn_implementation == implementation
        losses.append(model(**inputs).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("encoder", TINY)
def test_the_encoders_pass_is_one_graph(encoder):
    model, ecgs = tiny(encoder).merl, pairs(2)["ecg_values"]
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    mask = torch.ones(2, 12, dtype=torch.bool)
    expected = model(ecgs).last_hidden_state
    assert torch.allclose(compiled(ecgs, ecg_lead_mask=mask).last_hidden_state, expected, atol=1e-5)


def test_hidden_states_end_where_the_last_one_begins():
    ecgs = pairs(2)["ecg_values"]
    resnet, vit = (tiny(encoder).merl(ecgs, output_hidden_states=True) for encoder in ("resnet", "vit"))
    assert torch.equal(resnet.hidden_states[-1].transpose(1, 2), resnet.last_hidden_state)
    assert torch.equal(vit.hidden_states[-1], vit.last_hidden_state)


@pytest.mark.parametrize("encoder", TINY)
def test_gradient_checkpointing_changes_no_gradient(encoder):
    gradients = []
    for checkpointing in (False, True):
        model = tiny(encoder, projection_dropout=0.0)
        model.text_model.config.hidden_dropout_prob = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        model.text_model.eval()
        model(**pairs(4)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5), name


@pytest.mark.parametrize("encoder", TINY)
def test_bfloat16_stays_close(encoder):
    inputs = pairs(4)
    expected = tiny(encoder)(**inputs)
    outputs = tiny(encoder).to(torch.bfloat16)(**inputs)
    assert outputs.ecg_embeds.dtype == torch.bfloat16
    assert (outputs.ecg_embeds.float() * expected.ecg_embeds).sum(dim=1).min() > 0.99
    assert outputs.loss.item() == pytest.approx(expected.loss.item(), rel=0.1)


def test_a_full_checkpoint_is_also_an_encoder(tmp_path):
    model = tiny("vit")
    model.save_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    ecgs = pairs(2)["ecg_values"]
    assert torch.equal(encoder(ecgs).pooler_output, model.merl(ecgs).pooler_output)


OTHER_PROCESS = """
import sys
import torch
import torch.distributed as dist
from elm_hf.modeling.modeling_merl import MerlForPreTraining

folder = sys.argv[1]
model = MerlForPreTraining.from_pretrained(folder)
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=1, world_size=2)
loss = model(**{key: value[2:] for key, value in torch.load(folder + "/inputs.pt").items()}).loss
loss.backward()
torch.save([loss.detach(), model.first_view.weight.grad, model.text_projection.linear_2.weight.grad], folder + "/1.pt")
"""


def test_two_processes_compare_all_pairs_and_learn_from_their_own(tmp_path):
    model, inputs = tiny("resnet"), pairs(4)
    model.save_pretrained(tmp_path)
    torch.save(inputs, tmp_path / "inputs.pt")
    other = start_python(["-c", OTHER_PROCESS, tmp_path])
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=2)
    try:
        loss = model(**{key: value[:2] for key, value in inputs.items()}).loss
        loss.backward()
        exit_code = other.wait()
    finally:
        other.kill()
        dist.destroy_process_group()
    assert exit_code == 0, other.error.read_text()
    found = [[loss, model.first_view.weight.grad, model.text_projection.linear_2.weight.grad]]
    found.append(torch.load(tmp_path / "1.pt"))

    for rank in (0, 1):
        ecg = model.get_ecg_features(inputs["ecg_values"])
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        features = model.ecg_projection.linear(ecg.last_hidden_state).mean(dim=1)
        own = (torch.arange(4)[:, None] // 2) == rank  # the other's embeddings are constants
        views = [layer(features) for layer in (model.first_view, model.second_view)]
        parts = [torch.where(own, part, part.detach()) for part in (ecg.pooler_output, text, *views)]
        expected = clip(parts[0], parts[1]) + clip(parts[2], parts[3])
        model.zero_grad()
        expected.backward()
        assert found[rank][0].item() == pytest.approx(expected.item(), rel=1e-5)
        assert torch.allclose(found[rank][1], model.first_view.weight.grad, atol=1e-5)
        assert torch.allclose(found[rank][2], model.text_projection.linear_2.weight.grad, atol=1e-5)
