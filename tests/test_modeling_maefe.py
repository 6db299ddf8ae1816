"""MTAE and MLAE: parity with the formulas, lengths and leads that do not fit, pre-training, checkpoints."""

import copy

import pytest
import torch
from reference_encoders import TINY, Reference, random_weights, relative_error
from transformers import AutoModel, AutoModelForPreTraining

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.modeling.configuration_maefe import MlaeConfig, MtaeConfig
from elm_hf.modeling.modeling_maefe import MlaeForPreTraining, MlaeModel, MtaeForPreTraining, MtaeModel


KINDS = ("mtae", "mlae")
CLASSES = {
    "mtae": (MtaeConfig, MtaeModel, MtaeForPreTraining),
    "mlae": (MlaeConfig, MlaeModel, MlaeForPreTraining),
}
NUM_PATCHES = {"mtae": 10, "mlae": 12}


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    return {kind: Reference(kind, random_weights(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> dict[str, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("maefe")
    models = {}
    for kind in KINDS:
        torch.save({"model": random_weights(kind)}, folder / f"{kind}.pth")
        models[kind], _ = convert_checkpoint(kind, folder / f"{kind}.pth", folder / kind)
    return models


@pytest.fixture
def models(converted) -> dict[str, torch.nn.Module]:
    return copy.deepcopy(converted)


@pytest.fixture
def ecg() -> torch.Tensor:
    return torch.randn(3, 12, TINY["samples"], generator=torch.Generator().manual_seed(1))


def noise_for(kind: str) -> torch.Tensor:
    return torch.rand(3, NUM_PATCHES[kind], generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind, full, encoder", [("mtae", 89_371_788, 85_775_880), ("mlae", 90_739_806, 86_801_556)])
def test_weights_of_the_published_base_model(kind, full, encoder):
    config_class, _, pretraining_class = CLASSES[kind]
    with torch.device("meta"):
        model = pretraining_class(config_class())
    assert sum(weight.numel() for weight in model.state_dict().values()) == full
    assert sum(weight.numel() for weight in model.base_model.state_dict().values()) == encoder


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_agrees_with_the_formulas(kind, implementation, models, references, ecg):
    models[kind].set_attn_implementation(implementation)
    with torch.no_grad():
        outputs = models[kind].base_model(ecg)
    tokens, representation = references[kind].encode(ecg)
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(outputs.pooler_output, representation) < 1e-5


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_pretraining_agrees_with_the_formulas(kind, norm_pix_loss, models, references, ecg):
    model, noise = models[kind], noise_for(kind)
    model.config.norm_pix_loss = norm_pix_loss
    with torch.no_grad():
        outputs = model(ecg, noise=noise, ecg_lead_mask=torch.ones(3, 12, dtype=torch.bool))
    expected = references[kind].pretrain(ecg, noise, standardised=norm_pix_loss)
    assert torch.equal(outputs.mask, expected["mask"].float())
    assert torch.equal(outputs.ids_restore, expected["ids_restore"])
    for name in ("loss", "prediction", "last_hidden_state"):
        assert relative_error(outputs[name], expected[name]) < 1e-5, name


def test_a_shorter_ecg_takes_the_first_positions(models, references, ecg):
    short, noise = ecg[:, :, :60], noise_for("mtae")[:, :4]
    with torch.no_grad():
        outputs = models["mtae"].mtae(short)
        pretraining = models["mtae"](short, noise=noise)
    tokens, representation = references["mtae"].encode(short)
    expected = references["mtae"].pretrain(short, noise)
    assert outputs.last_hidden_state.shape == (3, 1 + 4, 40)
    assert relative_error(outputs.last_hidden_state, tokens) < 1e-5
    assert relative_error(outputs.pooler_output, representation) < 1e-5
    assert relative_error(pretraining.prediction, expected["prediction"]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(kind, models, ecg):
    gradients = []
    for is_checkpointed in (False, True):
        model = copy.deepcopy(models[kind]).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        model(ecg, noise=noise_for(kind)).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_one_graph(kind, models, ecg):
    encoder, mask = models[kind].base_model, torch.ones(3, 12, dtype=torch.bool)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    expected = encoder(ecg).last_hidden_state
    assert torch.allclose(compiled(ecg, ecg_lead_mask=mask).last_hidden_state, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_models_load_through_the_auto_classes(kind, models, ecg, tmp_path):
    model, (_, model_class, pretraining_class) = models[kind], CLASSES[kind]
    model.save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(again) is pretraining_class and type(encoder) is model_class
    with torch.no_grad():
        assert torch.equal(again(ecg, noise=noise_for(kind)).loss, model(ecg, noise=noise_for(kind)).loss)
        assert torch.equal(encoder(ecg).pooler_output, model.base_model(ecg).pooler_output)


@pytest.mark.parametrize("kind", KINDS)
def test_new_weights_follow_the_paper(kind):
    torch.manual_seed(0)
    config_class, _, pretraining_class = CLASSES[kind]
    sizes = {"num_samples": 150, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"intermediate_size": 512, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
    model = pretraining_class(config_class(**sizes, decoder_num_attention_heads=1))
    embeddings = model.base_model.embeddings
    third = torch.tensor([2 * 10000 ** (-i / 32) for i in range(32)])
    assert not embeddings.position_embeddings[0, 0].any()
    if kind == "mlae":
        assert torch.allclose(embeddings.position_embeddings[0, 3], torch.cat([third.sin(), third.cos()]), atol=1e-6)
        assert embeddings.position_embeddings.shape[1] == 13
    else:
        assert embeddings.position_embeddings.shape[1] == 3
    assert abs(embeddings.cls_token.std() / 0.02 - 1) < 0.5
    up_proj = model.base_model.layers[0].mlp.up_proj
    bound = (6 / (64 + 512)) ** 0.5
    assert bound * 0.99 < up_proj.weight.abs().max() <= bound and not up_proj.bias.any()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_stays_close(kind, models, ecg):
    model = models[kind]
    with torch.no_grad():
        expected = model(ecg, noise=noise_for(kind)).loss
        outputs = model.bfloat16()(ecg, noise=noise_for(kind))
    assert outputs.prediction.dtype == torch.bfloat16
    assert relative_error(outputs.loss, expected.double()) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_lead_is_refused(kind, models, ecg):
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, 4] = False
    for model in (models[kind], models[kind].base_model):
        with pytest.raises(ValueError, match=rf"\[12, 11, 12\] of 12 leads.*an {kind} model.*st_mem"):
            model(ecg, ecg_lead_mask=mask)
        with pytest.raises(ValueError, match=r"\(batch, 12 leads, samples\), got \(3, 11, 150\)"):
            model(ecg[:, 1:])


def test_lengths_that_do_not_fit_are_refused(models, ecg):
    for length, kind, message in (
        (50, "mtae", "50 samples does not fit.*patch_size=15 up to num_samples=150"),
        (75, "mlae", "75 samples does not fit.*num_samples=150"),
    ):
        with pytest.raises(ValueError, match=message):
            models[kind].base_model(ecg[:, :, :length])
    with pytest.raises(ValueError, match="300 samples does not fit"):
        models["mtae"](torch.cat([ecg, ecg], dim=2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_ratio_without_anything_to_learn_is_refused(kind, models, ecg):
    for ratio, kept in ((0.0, NUM_PATCHES[kind]), (0.95, 0)):
        models[kind].config.mask_ratio = ratio
        with pytest.raises(ValueError, match=f"mask_ratio={ratio} keeps {kept} of {NUM_PATCHES[kind]} tokens"):
            models[kind](ecg)
