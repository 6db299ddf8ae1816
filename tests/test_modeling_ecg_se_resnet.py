"""The lead-aware SE-ResNet by itself: its size, its tokens, and what it makes of leads."""

import pytest
import torch
from torch import nn

from elm_hf.modeling.configuration_ecg_se_resnet import EcgSeResNetConfig
from elm_hf.modeling.modeling_ecg_se_resnet import EcgSeResNetForSequenceClassification, EcgSeResNetModel


TINY = {"hidden_sizes": [8, 16], "depths": [1, 1], "kernel_sizes": [5, 3], "num_labels": 3}


def tiny_classifier() -> EcgSeResNetForSequenceClassification:
    torch.manual_seed(0)
    model = EcgSeResNetForSequenceClassification(EcgSeResNetConfig(**TINY))
    for module in model.modules():  # the residual branches of new blocks are zero
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def ecg() -> torch.Tensor:
    return torch.randn(2, 12, 500, generator=torch.Generator().manual_seed(1))


def test_the_default_network_has_the_parameters_of_its_layers():
    """Counted by hand from the widths 64, 128, 256, 384 with kernels 7, 7, 5, 3 and two blocks each."""
    with torch.device("meta"):
        model = EcgSeResNetModel(EcgSeResNetConfig())
    expected = 12 * 64 * 15 + 12 * 64 + 2 * 64
    width = 64
    for size, kernel in zip((64, 128, 256, 384), (7, 7, 5, 3)):
        for index in range(2):
            expected += width * size * kernel + size * size * kernel + 2 * 2 * size
            expected += 2 * size * (size // 8) + size // 8 + size
            expected += width * size + 2 * size if index == 0 and width != size else 0
            width = size
    assert model.num_parameters() == expected
    assert 3.4e6 < expected < 3.7e6


def test_tokens_are_a_sixteenth_of_the_samples_and_pooled_by_mean_and_maximum():
    model = EcgSeResNetModel(EcgSeResNetConfig(hidden_sizes=[8] * 4)).eval()
    with torch.no_grad():
        outputs = model(torch.randn(1, 12, 1000), output_hidden_states=True)
    assert outputs.last_hidden_state.shape == (1, 63, 8)
    tokens = outputs.last_hidden_state
    torch.testing.assert_close(outputs.pooler_output, torch.cat([tokens.mean(dim=1), tokens.amax(dim=1)], dim=1))
    assert [state.shape[-1] for state in outputs.hidden_states] == [500, 500, 500, 250, 250, 125, 125, 63, 63]


def test_a_new_block_passes_its_input_on(ecg):
    model = EcgSeResNetModel(EcgSeResNetConfig(hidden_sizes=[8], depths=[2], kernel_sizes=[3])).eval()
    with torch.no_grad():
        first, *later = model(ecg, output_hidden_states=True).hidden_states
    # silu of the input, since the residual branch of a new block is zero
    torch.testing.assert_close(later[0], nn.functional.silu(first))


def test_leads_are_not_exchangeable_and_absent_ones_do_not_matter(ecg):
    model = tiny_classifier()
    present = torch.ones(2, 12, dtype=torch.bool)
    present[0, 4] = False
    with torch.no_grad():
        model.ecg_se_resnet.absent_leads.uniform_(-1, 1)
        logits = model(ecg, ecg_lead_mask=present).logits
        assert (model(ecg[:, torch.arange(11, -1, -1)]).logits - model(ecg).logits).abs().max() > 1e-3
        torch.testing.assert_close(model(ecg).logits[1], logits[1])
        changed = ecg.clone()
        changed[0, 4] = 9.0
        torch.testing.assert_close(model(changed, ecg_lead_mask=present).logits, logits)
        zeros = ecg.clone()
        zeros[0, 4] = 0.0  # an absent lead is not a flat one
        assert (model(zeros).logits[0] - logits[0]).abs().max() > 1e-4


def test_another_number_of_leads_is_refused(ecg):
    with pytest.raises(ValueError, match=r"of shape \(batch, 12, samples\), got \(2, 8, 500\)"):
        tiny_classifier()(ecg[:, :8])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"depths": [1]}, "The number of stages differs: `hidden_sizes` 2, `depths` 1, `kernel_sizes` 2"),
        ({"kernel_sizes": [5, 4]}, "must be odd, got 4"),
    ],
)
def test_impossible_networks_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        EcgSeResNetConfig(**TINY | fields)


def test_it_is_saved_and_loaded(ecg, tmp_path):
    model = tiny_classifier()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        encoder = EcgSeResNetModel.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(
            encoder(ecg).last_hidden_state, model.ecg_se_resnet(ecg).last_hidden_state, rtol=0, atol=0
        )
