"""Tasks of the LM Evaluation Harness: run by the harness itself, they give the figures of `elm-hf evaluate`."""

import pandas as pd
import pytest

from elm_hf.evaluation.evaluate import evaluate


pytest.importorskip("lm_eval", reason='needs pip install "elm-hf[harness]"')

import lm_eval  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from elm_hf.ecg.plot import plot_ecg  # noqa: E402
from elm_hf.other_models import lm_harness  # noqa: E402
from elm_hf.utils.exact_match import answer_items  # noqa: E402


LIMIT = 12  # conversations


@pytest.fixture(scope="module")
def evaluated(speaking_elm, simulated_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    settings = {"limit": LIMIT, "max_new_tokens": 3, "num_occlusions": 0, "quiet": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "elm_hf.evaluation.evaluate.write_report", lambda *args, **kwargs: {}
        )  # only answers are compared
        evaluate(speaking_elm, simulated_dataset, output=folder, conditions=("ecg", "noise"), **settings)
    return pd.read_parquet(folder / "predictions.parquet")


def manager(simulated_dataset) -> TaskManager:
    metadata = {"dataset": str(simulated_dataset), "limit": LIMIT}
    return TaskManager(include_path=lm_harness.TASKS_FOLDER, include_defaults=False, metadata=metadata)


def test_the_harness_gives_the_figures_of_evaluate(evaluated, speaking_elm, simulated_dataset, monkeypatch, caplog):
    """Answers of random weights are never right, so the true answers of half of the questions are what the model says."""
    said = evaluated[evaluated["condition"] == "ecg"].set_index("question_id")["prediction"]
    lucky = set(said.index[::2])
    load = lm_harness.load_questions

    def load_lucky(**kwargs):
        def change(document):
            name = document["question_id"]
            return {"answer": said[name].split(",") if name in lucky else document["answer"]}

        return {"test": load(**kwargs)["test"].map(change, load_from_cache_file=False)}

    monkeypatch.setattr(lm_harness, "load_questions", load_lucky)
    done = lm_eval.simple_evaluate(
        model="elm-hf",
        model_args={"pretrained": str(speaking_elm), "batch_size": 32},
        tasks=["elm_hf_ecg", "elm_hf_noise"],
        task_manager=manager(simulated_dataset),
        gen_kwargs={"max_gen_toks": 3},
        bootstrap_iters=0,
    )
    for condition in ("ecg", "noise"):
        expected = evaluated[evaluated["condition"] == condition].set_index("question_id")["prediction"]
        samples = done["samples"][f"elm_hf_{condition}"]
        assert {one["doc"]["question_id"]: one["resps"][0][0] for one in samples} == expected.to_dict()
    right = sum(bool(answer_items(said[name])) for name in lucky)
    assert right >= 3
    assert done["results"]["elm_hf_ecg"]["exact_match,none"] == pytest.approx(right / len(said))
    assert f"{speaking_elm}: the patients that the model was trained on are unknown" in caplog.text


def test_scores_are_those_of_the_report():
    short = {"kind": "short", "answer": ["sinus rhythm", "low voltage"]}
    assert lm_harness.score(short, ["Low voltage, sinus rhythm."]) == {"exact_match": 1.0}
    assert lm_harness.score(short, ["<think>low voltage</think>sinus rhythm"]) == {"exact_match": 0.0}
    text = {"kind": "text", "answer": ["x"], "truth": "sinus rhythm with left axis deviation"}
    # Three words of three and of six: F1 = 2/3.
    assert lm_harness.score(text, ["sinus rhythm deviation"])["rouge_l"] == pytest.approx(2 / 3)


def test_documents_of_models_that_see(simulated_dataset):
    task = manager(simulated_dataset).load("elm_hf_picture_ecg")["tasks"]["elm_hf_picture_ecg"]
    document = next(iter(task.test_docs()))
    row = lm_harness._asked(document["source"]).rows[document["row"]]
    (picture,) = task.doc_to_image(document)
    assert picture.tobytes() == plot_ecg(row["ecgs"][0], row["sampling_rate"]).tobytes()
    assert task.doc_to_text(document) == f"{lm_harness.INSTRUCTION}\n<image>{row['question']}"
    assert task.doc_to_target(document) == ", ".join(row["answer"])
    without = manager(simulated_dataset).load("elm_hf_picture_none")["tasks"]["elm_hf_picture_none"]
    document = next(iter(without.test_docs()))
    assert without.doc_to_image(document) == [] and "<image>" not in without.doc_to_text(document)


def test_there_is_a_task_for_each_condition(simulated_dataset):
    names = manager(simulated_dataset).all_subtasks
    assert set(names) == {
        f"elm_hf_{kind}{condition}"
        for kind in ("", "picture_")
        for condition in ("ecg", "zeros", "noise", "shuffled", "none")
    }
    with pytest.raises(ValueError, match="name the dataset: --metadata"):
        lm_harness.load_questions()
