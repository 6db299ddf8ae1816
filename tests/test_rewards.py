"""Training on rewards: sampling and log-probabilities see the ECGs, rewards are worked out by hand and attacked."""

import numpy as np
import pytest
import torch
from test_preferences import spy_on_forward

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs, prompt_of
from elm_hf.training import grpo, rloo
from elm_hf.training.reward_data import choose_controls, questions_of
from elm_hf.training.rewards import Perception, answer_format, exact_match
from elm_hf.training.sft import parse, train
from elm_hf.utils.exact_match import final_answer


TRAINERS = {"grpo": grpo, "rloo": rloo}
# Answers of a model that wants the reward without reading the ECG, to "What is the rhythm?".
EVERYTHING = "sinus rhythm, atrial fibrillation, atrial flutter, sinus bradycardia, sinus tachycardia"
NUMBERS = "<think>60 70 80 90 100 110</think><answer>60, 70, 80, 90, 100, 110 bpm</answer>"


def said(*texts: str) -> list[list[dict]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_exact_match_takes_the_items_as_a_set_and_the_answer_without_its_reasoning():
    truth = ["Atrial fibrillation", "LBBB"]
    right = (
        "lbbb, atrial fibrillation",
        "LBBB, atrial  fibrillation.",
        "<think>LBBB?</think>LBBB, atrial fibrillation",
    )
    wrong = ("lbbb", "", "lbbb, atrial fibrillation, rbbb", "<think>lbbb, atrial fibrillation")
    assert exact_match(said(*right, *wrong), [truth] * 7) == [1, 1, 1, 0, 0, 0, 0]
    assert final_answer("<think>a</think> <answer>no</answer> or <answer> yes </answer>") == "yes"


def test_the_format_has_one_reasoning_and_one_answer():
    good = ("<think>a wide QRS</think><answer>LBBB</answer>", " <think>x\ny</think>\n<answer>a, b</answer>\n")
    bad = (
        "LBBB",
        "<think> </think><answer>LBBB</answer>",
        "<think>a</think><answer></answer>",
        "<answer>LBBB</answer><think>a</think>",
        "<think>a</think><answer>LBBB</answer> indeed",
        "<think>a</think><answer>LBBB</answer><answer>RBBB</answer>",
        "<think>a</think><think>b</think><answer>LBBB</answer>",
    )
    assert answer_format(said(*good, *bad)) == [1, 1, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("attack", "truth"), [(EVERYTHING, "atrial fibrillation"), (NUMBERS, "80 bpm")])
def test_an_answer_that_names_everything_earns_nothing_for_its_content(attack, truth):
    """A model that says everything, and one that repeats numbers, with the right one among them."""
    assert truth.split()[0] in attack and exact_match(said(attack), [[truth]]) == [0]
    several = "".join(f"<answer>{one.strip()}</answer>" for one in attack.split(","))
    assert answer_format(said(f"<think>so</think>{several}")) == [0]
    perception = Perception(None, 4)
    perception.model = torch.nn.Linear(1, 1)  # not asked for a probability
    assert perception([[]], said(attack), [[truth]], [[np.ones(1)]], [[np.ones(1)]], [250]) == [0]


def test_a_right_answer_earns_nothing_for_perception_if_the_model_does_not_read_the_ecg(tiny_elm, simulated_dataset):
    model, processor = load_checkpoint(tiny_elm)
    rows = questions_of(load_elm_dataset(simulated_dataset, 1, "validation"), True, 0)
    asked = [row for row in (rows[number] for number in range(12)) if len(row["ecgs"]) == 1][:3]
    names = ("prompt", "truth", "ecgs", "control_ecgs", "sampling_rate")
    columns = {name: [row[name] for row in asked] for name in names}
    columns["completions"] = said(*(", ".join(items) for items in columns["truth"][:2]), "a wrong answer")
    columns["prompts"] = columns.pop("prompt")
    perception = Perception(processor, 2)
    perception.model = model
    earned = perception(**columns)
    assert 0 < abs(earned[0]) <= 1 and 0 < abs(earned[1]) <= 1 and earned[2] == 0
    swapped = perception(**columns | {"ecgs": columns["control_ecgs"], "control_ecgs": columns["ecgs"]})
    assert swapped == pytest.approx([-each for each in earned], abs=1e-5)
    for parameter in model.model.projector.parameters():  # an ECG is now the same to the LLM as any other
        torch.nn.init.zeros_(parameter)
    assert perception(**columns) == pytest.approx([0, 0, 0], abs=1e-6)


def test_controls_are_of_other_patients_with_another_answer_where_there_is_one():
    questions = ["rhythm?"] * 5 + ["axis?"] * 2 + ["none?"]
    truth = [["AF"], ["af"], ["sinus"], ["sinus"], ["sinus"], ["left"], ["left"], ["yes"]]
    patients = [["a"], ["b"], ["a"], ["c"], ["c"], ["d"], ["e"], []]
    for seed in range(5):
        chosen = choose_controls(questions, truth, patients, seed)
        assert chosen[0] in (3, 4) and chosen[1] in (2, 3, 4) and {*chosen[2:5]} <= {0, 1} and chosen[2] == 1
        assert chosen[5] not in (5, 7) and chosen[6] not in (6, 7) and chosen[7] is None
    assert choose_controls(["q"] * 3, [["x"], ["y"], ["y"]], [["a"], ["b"], ["a", "b"]], 0) == [1, 0, None]
    with pytest.raises(ValueError, match="perception needs ECGs of patients other than a, and there are none"):
        choose_controls(["q", "q"], [["x"], ["y"]], [["a"], ["a"]], 0)


def build(method: str, model, dataset, output, *more: str):
    words = [
        *("--model_name_or_path", str(model), "--dataset", str(dataset), "--output_dir", str(output)),
        *("--max_steps", "2", "--per_device_train_batch_size", "8", "--num_generations", "4"),
        *("--max_completion_length", "4", "--learning_rate", "1e-2", "--logging_steps", "1", "--report_to", "none"),
        *("--use_cpu", "--bf16", "false", "--save_strategy", "no", "--disable_tqdm", "true", *more),
    ]
    return TRAINERS[method].build_trainer(*parse(words, TRAINERS[method].ARGUMENTS))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (
            "grpo",
            (
                "--rewards",
                "exact_match",
                "format",
                "perception",
                "measured_claims",
                "--reward_weights",
                *("1", "0.1", "0.5", "0.2"),
            ),
        ),
        ("grpo", ("--use_peft", "--trainable", "projector", "llm", "--beta", "0.1", "--steps_per_generation", "2")),
        ("rloo", ("--beta", "0.1")),
    ],
)
def test_sampling_and_learning_see_the_ecgs(method, options, tiny_elm, simulated_dataset, tmp_path, monkeypatch):
    """Two prompts with four answers: their prefixes in sampling, and every row in log-probabilities."""
    trainer = build(method, tiny_elm, simulated_dataset, tmp_path / "out", *options)
    seen = spy_on_forward(monkeypatch)
    train(trainer)
    places = [number for number, _ in seen]
    assert all(number == ecgs for number, ecgs in seen)
    assert 0 < places[0] < max(places)  # a prefix is computed once, not once for each answer
    assert sum(number > 0 for number in places) >= 4  # two samplings and two steps
    saved, processor = load_checkpoint(tmp_path / "out")
    assert type(processor).__name__ == "ElmProcessor"


def test_log_probabilities_are_those_of_the_model_with_the_ecg_of_each_row(tiny_elm, simulated_dataset, tmp_path):
    options = ("--steps_per_generation", "2", "--activation_checkpointing", "false")
    trainer = build("grpo", tiny_elm, simulated_dataset, tmp_path / "out", *options)
    rows = [trainer.train_dataset[row] for row in (0, 0, 5, 9)]
    trainer.num_generations, trainer.model = 2, trainer.model.eval()
    trainer.num_generations_eval = 2
    batch = trainer._generate_and_score_completions(rows)
    assert batch["num_ecgs"].tolist() == [len(row["ecgs"]) for row in rows]
    order = torch.tensor([3, 1, 0, 2])  # as the trainer shuffles
    shuffled = {name: values[order] for name, values in batch.items() if values.ndim}
    trainer._ecgs = {name: shuffled[name] for name in ("num_ecgs", "ecg_values", "ecg_lead_mask")}
    ids = torch.cat([shuffled["prompt_ids"], shuffled["completion_ids"]], dim=1)
    mask = torch.cat([shuffled["prompt_mask"], shuffled["completion_mask"]], dim=1)
    kept = shuffled["completion_ids"].shape[1]
    with torch.no_grad():
        found, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, kept, batch_size=3)
    model, processor = load_checkpoint(tiny_elm)
    for place, row in enumerate(order.tolist()):
        filled = fill_ecgs(prompt_of(rows[row]["prompt"]), rows[row]["ecgs"], rows[row]["sampling_rate"])
        inputs = processor.apply_chat_template(
            filled, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        number = int(shuffled["completion_mask"][place].sum())
        answer = shuffled["completion_ids"][place, :number]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer[None]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            scores = model(**inputs).logits[0, -number - 1 : -1].log_softmax(dim=-1)
        expected = scores[torch.arange(number), answer]
        assert torch.allclose(found[place, :number], expected, atol=1e-4)
