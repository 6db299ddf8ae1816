"""The lead-agnostic ResNet by itself: its hidden states, and its classifier under `Trainer`."""

import json

import pytest
import torch
from transformers import Trainer, TrainingArguments

from elm_hf.modeling.configuration_ecg_resnet import EcgResNetConfig
from elm_hf.modeling.modeling_ecg_resnet import EcgResNetForSequenceClassification, EcgResNetModel


LABELS = {
    "multi_label_classification": torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
    "single_label_classification": torch.tensor([0, 2, 1, 2]),
}


def tiny_classifier(problem_type: str | None = None) -> EcgResNetForSequenceClassification:
    torch.manual_seed(0)
    config = EcgResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, problem_type=problem_type
    )
    return EcgResNetForSequenceClassification(config)


def test_hidden_states_are_those_of_single_leads():
    model = tiny_classifier().eval()
    ecg = torch.randn(2, 12, 500, generator=torch.Generator().manual_seed(1))
    hidden_states = model(ecg, output_hidden_states=True).hidden_states
    # the stem and the pooling halve the time twice, the second block once more
    assert [tuple(state.shape) for state in hidden_states] == [(24, 8, 125), (24, 8, 125), (24, 16, 63)]
    mean = hidden_states[-1].unflatten(0, (2, 12)).mean(dim=1).transpose(1, 2)
    torch.testing.assert_close(model.ecg_resnet(ecg).last_hidden_state, mean)
    assert model(ecg).hidden_states is None


@pytest.mark.parametrize("problem_type", LABELS)
def test_accumulated_gradients_are_those_of_the_whole_batch(problem_type, tmp_path):
    ecgs = torch.randn(4, 12, 100, generator=torch.Generator().manual_seed(1))
    rows = [{"ecg_values": ecg, "labels": label} for ecg, label in zip(ecgs, LABELS[problem_type])]
    norms = []
    for steps in (1, 2):
        model = tiny_classifier(problem_type)
        encoder = model.ecg_resnet.requires_grad_(False).eval()
        encoder.train = lambda mode, encoder=encoder: encoder  # or batch norm would see other batches
        args = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=4 // steps,
            gradient_accumulation_steps=steps,
            max_steps=1,
            logging_steps=1,
            max_grad_norm=1e9,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        trainer = Trainer(model, args, train_dataset=rows)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def lead_aware(seed: int = 0) -> EcgResNetModel:
    torch.manual_seed(seed)
    return EcgResNetModel(EcgResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_leads=12))


def test_only_a_lead_aware_encoder_notices_exchanged_leads():
    ecg = torch.randn(1, 12, 500, generator=torch.Generator().manual_seed(1))
    exchanged = ecg[:, torch.randperm(12, generator=torch.Generator().manual_seed(2))]
    for model, notices in ((tiny_classifier().ecg_resnet.eval(), False), (lead_aware().eval(), True)):
        with torch.no_grad():
            difference = (model(ecg).last_hidden_state - model(exchanged).last_hidden_state).abs().max()
        assert (difference > 1e-2) == notices


def test_a_lead_aware_encoder_reads_any_subset_of_leads_by_name():
    ecg = torch.randn(1, 12, 500, generator=torch.Generator().manual_seed(1))
    model = lead_aware().eval()
    present = torch.zeros(1, 12, dtype=torch.bool)
    present[0, [1, 6]] = True
    with torch.no_grad():
        both = model(ecg, ecg_lead_mask=present).last_hidden_state
        changed = ecg.clone()
        changed[~present] = 7.0  # absent leads do not matter
        torch.testing.assert_close(model(changed, ecg_lead_mask=present).last_hidden_state, both)
        single = []
        for lead in (1, 6):
            mask = torch.zeros(1, 12, dtype=torch.bool)
            mask[0, lead] = True
            single.append(model(ecg, ecg_lead_mask=mask).last_hidden_state)
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)
    with pytest.raises(ValueError, match="knows 12 leads by their row, got 2"):
        model(ecg[:, :2])


def test_weights_of_an_anonymous_encoder_load_as_before(tmp_path):
    """A configuration that was saved before lead embeddings existed has no `num_leads`."""
    before = tiny_classifier().ecg_resnet.eval()
    before.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["num_leads"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    after, info = EcgResNetModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and after.lead_embeddings is None
    ecg = torch.randn(1, 3, 300)
    with torch.no_grad():
        assert torch.equal(after.eval()(ecg).last_hidden_state, before(ecg).last_hidden_state)


def test_a_finding_in_one_of_two_leads_is_only_learnt_with_lead_embeddings():
    """The class is the lead with the wave, which an average over anonymous leads cannot tell."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 2
    ecgs = 0.05 * torch.randn(256, 12, 96, generator=generator)
    ecgs[torch.arange(256), 6 + labels, 40:56] += 1
    accuracy = {}
    for num_leads in (0, 12):
        torch.manual_seed(0)
        config = EcgResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=2, num_leads=num_leads
        )
        model = EcgResNetForSequenceClassification(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            model(ecgs[:48], labels=labels[:48]).loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy[num_leads] = (model(ecgs[48:]).logits.argmax(dim=1) == labels[48:]).float().mean().item()
    assert accuracy[0] < 0.65 and accuracy[12] == 1, accuracy
