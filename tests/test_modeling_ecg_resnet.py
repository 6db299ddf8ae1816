"""The lead-agnostic ResNet by itself: its hidden states, and its classifier under `Trainer`."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from elm_hf.modeling.configuration_ecg_resnet import EcgResNetConfig
from elm_hf.modeling.modeling_ecg_resnet import EcgResNetForSequenceClassification


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
