"""ST-MEM: parity with the formulas, fewer leads, shorter ECGs, pre-training, checkpoints."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from reference_encoders import TINY, Reference, random_weights, relative_error
from transformers import AutoModel, AutoModelForPreTraining

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.modeling.configuration_st_mem import StMemConfig
from elm_hf.modeling.modeling_st_mem import StMemForPreTraining, StMemModel


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference("st_mem", random_weights("st_mem"))


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> StMemForPreTraining:
    folder = tmp_path_factory.mktemp("st_mem")
    torch.save({"model": random_weights("st_mem"), "epoch": 3}, folder / "full.pth")
    model, _ = convert_checkpoint("st_mem", folder / "full.pth", folder / "out")
    return model


@pytest.fixture
def model(converted) -> StMemForPreTraining:
    return copy.deepcopy(converted)


@pytest.fixture
def ecg() -> torch.Tensor:
    return torch.randn(3, 12, TINY["samples"], generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.rand(3, 12, 10, generator=torch.Generator().manual_seed(2))


def tiny_config(**changes) -> StMemConfig:
    sizes = {"num_samples": 60, "patch_size": 15, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"intermediate_size": 48, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
    return StMemConfig(**sizes | {"decoder_num_attention_heads": 1, "decoder_intermediate_size": 24} | changes)


def test_parameters_of_the_published_base_model():
    with torch.device("meta"):
        model = StMemForPreTraining(StMemConfig())
    assert sum(weight.numel() for weight in model.state_dict().values()) == 88_534_753
    assert model.num_parameters(only_trainable=True) == 88_501_985
    assert sum(weight.numel() for weight in model.st_mem.state_dict().values()) == 85_150_614


def test_the_encoder_agrees_with_the_formulas(model, reference, ecg):
    with torch.no_grad():
        outputs = model.st_mem(ecg)
    tokens, representation = reference.encode(ecg)
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(outputs.pooler_output, representation) < 1e-5


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("mask_ratio", [0.75, 0.5])
def test_pretraining_agrees_with_the_formulas(norm_pix_loss, mask_ratio, model, reference, ecg, noise):
    model.config.norm_pix_loss, model.config.mask_ratio = norm_pix_loss, mask_ratio
    with torch.no_grad():
        outputs = model(ecg, noise=noise)
    expected = reference.pretrain(ecg, noise, mask_ratio, norm_pix_loss)
    assert torch.equal(outputs.mask, expected["mask"].float())
    assert torch.equal(outputs.ids_restore, expected["ids_restore"])
    for name in ("loss", "prediction", "last_hidden_state"):
        assert relative_error(outputs[name], expected[name]) < 1e-5, name


def test_a_shorter_ecg_takes_the_first_positions_and_the_last(model, reference, ecg, noise):
    short = ecg[:, :, :60]
    with torch.no_grad():
        outputs = model.st_mem(short)
        pretraining = model(short, noise=noise[:, :, :4])
    tokens, representation = reference.encode(short)
    assert outputs.last_hidden_state.shape == (3, 12 * 4, 40)
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(outputs.pooler_output, representation) < 1e-5
    expected = reference.pretrain(short, noise[:, :, :4])
    assert relative_error(pretraining.prediction, expected["prediction"]) < 1e-5
    assert relative_error(pretraining.loss, expected["loss"]) < 1e-5


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_each_ecg_of_a_batch_may_have_leads_of_its_own(implementation, model, reference, ecg):
    model.set_attn_implementation(implementation)
    leads = [[1], [0, 1, 6, 11], list(range(12))]
    mask = torch.zeros(3, 12, dtype=torch.bool)
    for row, present in enumerate(leads):
        mask[row, present] = True
    ecg[~mask] = float("nan")  # whatever stands in the row of an absent lead
    with torch.no_grad():
        outputs = model.st_mem(ecg, ecg_lead_mask=mask)
    for row, present in enumerate(leads):
        tokens, representation = reference.encode(ecg[row : row + 1, present], present)
        ours = outputs.last_hidden_state[row].unflatten(0, (12, 10))
        assert relative_error(ours[present].flatten(0, 1)[None], tokens) < 1e-5
        assert not ours[~mask[row]].any()
        assert relative_error(outputs.pooler_output[row : row + 1], representation) < 1e-5


def test_leads_have_embeddings_of_their_own(model, ecg):
    one = torch.zeros(1, 12, TINY["samples"])
    pooled = []
    for lead in (1, 7):
        values, mask = one.clone(), torch.zeros(1, 12, dtype=torch.bool)
        values[0, lead], mask[0, lead] = ecg[0, 0], True
        with torch.no_grad():
            pooled.append(model.st_mem(values, ecg_lead_mask=mask).pooler_output)
    assert (pooled[0] - pooled[1]).abs().max() > 0.01


def test_absent_leads_do_not_count_in_pretraining(model, reference, ecg, noise):
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[:, 5:] = False
    with torch.no_grad():
        outputs = model(ecg, ecg_lead_mask=mask, noise=noise)
    expected = reference.pretrain(ecg[:, :5], noise[:, :5])
    assert relative_error(outputs.loss, expected["loss"]) < 1e-5
    assert relative_error(outputs.prediction[:, :5], expected["prediction"]) < 1e-5


def test_new_weights_follow_the_paper():
    torch.manual_seed(0)
    model = StMemForPreTraining(tiny_config(num_samples=60, hidden_size=64, intermediate_size=512))
    positions = model.st_mem.embeddings.position_embeddings
    assert not positions[0, 0].any() and not positions[0, -1].any()
    third = torch.tensor([2 * 10000 ** (-i / 32) for i in range(32)])
    assert torch.allclose(positions[0, 3], torch.cat([third.sin(), third.cos()]), atol=1e-6)
    up_proj = model.st_mem.layers[0].mlp.up_proj
    bound = (6 / (64 + 512)) ** 0.5
    assert bound * 0.99 < up_proj.weight.abs().max() <= bound and not up_proj.bias.any()
    assert abs(model.st_mem.embeddings.lead_embeddings.std() / 0.02 - 1) < 0.1
    assert model.decoder.mask_token.any() and model.st_mem.embeddings.separator_token.any()


def test_gradient_checkpointing_gives_the_same_gradients(model, ecg, noise):
    gradients = []
    for is_checkpointed in (False, True):
        one = copy.deepcopy(model).train()
        if is_checkpointed:
            one.gradient_checkpointing_enable()
        one(ecg, noise=noise).loss.backward()
        gradients.append({name: weight.grad for name, weight in one.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def test_training_learns_to_reconstruct(noise):
    torch.manual_seed(0)
    model = StMemForPreTraining(tiny_config(mask_ratio=0.5, norm_pix_loss=False))
    time = torch.arange(60) / 15 * 2 * torch.pi
    ecg = torch.sin(time + torch.rand(8, 12, 1) * 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model(ecg).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_bfloat16_stays_close(model, ecg, noise):
    with torch.no_grad():
        expected = model(ecg, noise=noise)
        pooled = model.st_mem(ecg).pooler_output
        model.bfloat16()
        outputs = model(ecg, noise=noise)
        assert model.st_mem(ecg).pooler_output.dtype == torch.bfloat16
    assert outputs.prediction.dtype == torch.bfloat16
    assert torch.equal(outputs.mask, expected.mask)
    assert relative_error(outputs.loss, expected.loss.double()) < 0.02
    assert relative_error(model.st_mem(ecg).pooler_output, pooled.double()) < 0.05


def test_hidden_states_and_attentions_are_the_encoders(model, ecg, noise):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(ecg, noise=noise, output_hidden_states=True, output_attentions=True)
    kept = 12 * (2 + 2)  # two patches and two separators of each lead
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(3, kept, 40)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(3, 2, kept, kept)] * 2
    assert torch.allclose(outputs.attentions[0].sum(-1), torch.ones(1))
    normed = model.st_mem.layernorm(outputs.hidden_states[-1])
    assert torch.allclose(normed, outputs.last_hidden_state, atol=1e-6)


def test_the_forward_pass_is_one_graph(model, ecg):
    compiled = torch.compile(model.st_mem, fullgraph=True, backend="eager")
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[0, 3:] = False
    expected = model.st_mem(ecg, ecg_lead_mask=mask).pooler_output
    assert torch.allclose(compiled(ecg, ecg_lead_mask=mask).pooler_output, expected, atol=1e-6)


def test_saved_models_load_through_the_auto_classes(model, ecg, noise, tmp_path):
    model.save_pretrained(tmp_path / "full")
    again = AutoModelForPreTraining.from_pretrained(tmp_path / "full")
    encoder = AutoModel.from_pretrained(tmp_path / "full")
    assert type(again) is StMemForPreTraining and type(encoder) is StMemModel
    again.requires_grad_(True)
    assert not any("position" in name for name, _ in again.named_parameters())  # fixed, also after loading
    with torch.no_grad():
        assert torch.equal(again(ecg, noise=noise).prediction, model(ecg, noise=noise).prediction)
        assert torch.equal(encoder(ecg).pooler_output, model.st_mem(ecg).pooler_output)


def test_an_encoder_gets_a_new_decoder_for_pretraining(model, tmp_path):
    model.st_mem.save_pretrained(tmp_path)
    loaded = StMemForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(loaded.st_mem.embeddings.position_embeddings, model.st_mem.embeddings.position_embeddings)
    row = loaded.decoder.position_embeddings[0, 2]  # of the second patch: sines, then cosines, of 1 * frequency
    angles = torch.tensor([10000 ** (-i / 12) for i in range(12)])
    assert torch.allclose(row, torch.cat([angles.sin(), angles.cos()]), atol=1e-6)


BAD_INPUTS = {
    "leads": (lambda x: x[:, :3], {}, r"\(batch, 12 leads, samples\), got \(3, 3, 150\).*ecg_lead_mask"),
    "indivisible": (lambda x: x[:, :, :50], {}, "50 samples does not fit.*patch_size=15 up to num_samples=150"),
    "too long": (lambda x: torch.cat([x, x], dim=2), {}, "300 samples does not fit"),
    "empty": (lambda x: x[:, :, :0], {}, "0 samples does not fit"),
    "no lead": (lambda x: x, {"ecg_lead_mask": torch.zeros(3, 12, dtype=torch.bool)}, "an ECG without any lead"),
    "mask shape": (lambda x: x, {"ecg_lead_mask": torch.ones(12, dtype=torch.bool)}, r"shape \(3, 12\), got \(12,\)"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_what_does_not_fit_is_refused(case, model, ecg):
    change, keys, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        model.st_mem(change(ecg), **keys)
    with pytest.raises(ValueError, match=message):
        model(change(ecg), **keys)


@pytest.mark.parametrize("ratio, kept", [(0.0, 10), (0.95, 0)])
def test_a_ratio_without_anything_to_learn_is_refused(ratio, kept, model, ecg):
    model.config.mask_ratio = ratio
    with pytest.raises(ValueError, match=f"mask_ratio={ratio} keeps {kept} of 10 tokens"):
        model(ecg)


def test_noise_of_another_shape_is_refused(model, ecg):
    with pytest.raises(ValueError, match=r"`noise` must have the shape \(3, 12, 10\), got \(3, 10\)"):
        model(ecg, noise=torch.rand(3, 10))


def test_a_patch_size_that_does_not_divide_is_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="patch_size=75 does not divide num_samples=2500"):
        StMemConfig(num_samples=2500)


def test_positions_of_another_length_are_not_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises((RuntimeError, ValueError), match="position_embeddings|size mismatch|mismatched"):
        StMemForPreTraining.from_pretrained(tmp_path, num_samples=75)
