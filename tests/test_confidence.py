"""How sure a model is of an answer: probabilities against a plain forward pass, answer sets, and what `ask` says."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_ask import folder, run  # noqa: F401 (fixtures)

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.evaluation.answer_sets import AS_WRITTEN, MOST_ANSWERS, OPTIONS, TEMPLATE, YES_OR_NO, AnswerSets
from elm_hf.inference.answer_sets import answer_groups, is_yes_no_question, named_in
from elm_hf.inference.ask import AskedEcg, ask, questions_about
from elm_hf.inference.confidence import ConfidenceOptions, confidence_of, confidences, percent
from elm_hf.inference.generation import answer, score_answers
from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.utils.exact_match import with_reasoning


RHYTHMS = ("sinus rhythm", "atrial fibrillation", "atrial flutter")


@pytest.fixture(scope="module")
def speaking(speaking_elm):
    return load_checkpoint(speaking_elm, device="cpu")


def conversations(ecgs: np.ndarray) -> list[list[dict]]:
    """Two questions about one ECG, and one about another."""
    asked = [("What is the rhythm?", 0), ("Is it fast?", 0), ("Is it fast?", 1)]
    return [
        questions_about([AskedEcg("", ecgs[number], 250)], [question]).conversations()[0] for question, number in asked
    ]


def said(chat: list[dict], text: str) -> list[dict]:
    return [*chat, {"role": "assistant", "content": [{"type": "text", "text": text}]}]


def plain(model, processor, chat: list[dict]) -> tuple[float, int]:
    """Log-probability of the last answer and its number of tokens, from a forward pass of this conversation alone."""
    given = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([chat], **given, return_assistant_tokens_mask=True)
    is_answer = torch.as_tensor(np.array(inputs.pop("assistant_masks")))[0].bool()
    with torch.inference_mode():
        scores = model(**inputs, use_cache=False).logits[0].log_softmax(dim=-1)
    places = torch.nonzero(is_answer).flatten()
    tokens = inputs["input_ids"][0, places]
    return float(scores[places - 1, tokens].double().sum()), len(places)


def test_answers_have_the_probabilities_of_a_plain_forward_pass(speaking, ecgs):
    chats = [said(chat, text) for chat in conversations(ecgs) for text in RHYTHMS]
    batch = PromptBatch(*speaking, chats, answered=True)
    assert batch.prefix_length > 0
    scores, tokens = score_answers(batch, speaking[0])
    expected = [plain(*speaking, chat) for chat in chats]
    np.testing.assert_allclose(scores, [one[0] for one in expected], rtol=1e-4)
    assert tokens.tolist() == [one[1] for one in expected]
    in_parts, _ = score_answers(PromptBatch(*speaking, chats, answered=True), speaking[0], part_size=4)
    np.testing.assert_allclose(in_parts, scores, rtol=1e-5)


def test_the_confidence_is_the_share_of_the_probability(speaking, ecgs):
    chats = conversations(ecgs)
    texts = ["sinus rhythm", "Yes", "maybe"]
    found = confidences(*speaking, chats, texts, candidates=None)
    assert found[0].others is None and found[0].probability == pytest.approx(
        np.exp(plain(*speaking, said(chats[0], "sinus rhythm"))[0]), rel=1e-3
    )
    yes, no = (np.logaddexp.reduce([plain(*speaking, said(chats[1], text))[0] for text in group])
               for group in (("Yes", "yes"), ("no",)))  # fmt: skip
    assert found[1].probability == pytest.approx(1 / (1 + np.exp(no - yes)), rel=1e-3)
    assert list(found[1].others) == ["no"] and found[1].others["no"] == pytest.approx(1 - found[1].probability)
    # An answer that is not in the set is compared with it.
    three = np.array([plain(*speaking, said(chats[2], text)) for text in ("maybe", "yes", "no")])
    for scores, value in (
        (three[:, 0], found[2].probability),
        (three[:, 0] / three[:, 1], found[2].length_normalised),
    ):
        assert value == pytest.approx(np.exp(scores[0]) / np.exp(scores).sum(), rel=1e-3)
    assert confidences(*speaking, chats[:1], [""], candidates=RHYTHMS) == [None]


def test_after_a_reasoning_answers_are_compared_after_the_same_reasoning(speaking, ecgs):
    chats = conversations(ecgs)[1:2]
    text = with_reasoning("The rate is high.", "yes")
    (found,) = confidences(*speaking, chats, [text])
    scores = [plain(*speaking, said(chats[0], with_reasoning("The rate is high.", one)))[0] for one in ("yes", "no")]
    assert found.probability == pytest.approx(1 / (1 + np.exp(scores[1] - scores[0])), rel=1e-3)
    assert found.length_normalised is None
    assert confidences(*speaking, conversations(ecgs)[:1], [text]) == [None]  # no set is known


def test_confidences_in_words():
    three = confidence_of([["a"], ["b", "B"], ["c"], ["d"], ["e"]], np.log([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]), [1] * 6)
    assert three.words() == "50 % sure; b: 20 %, c: 10 %, d: 10 %, 1 others"
    assert three.words_of_abstention("a").startswith("a: 50 %, b: 20 %")
    assert confidence_of([["a"]], [np.log(0.4)], [2]).words() == "this wording: 40 %"
    assert [percent(value) for value in (0, 0.001, 0.83, 0.999, 1)] == ["0 %", "< 1 %", "83 %", "> 99 %", "100 %"]


# which answers there are


@pytest.mark.parametrize(
    "question, expected",
    [
        ("Is this ECG normal?", True),
        ("Compared with the previous ECG, does the recent ECG newly show atrial flutter?", True),
        ("This ECG shows a myocardial infarction. Is it in stage I?", True),
        ("The first was abnormal and the second is normal: is this correct?", True),
        ("Can you see any signs of electrodes problems in this ECG?", True),
        ("Can you identify which symptoms were present in the first ECG?", False),
        ("Is the rhythm of this ECG sinus rhythm or atrial flutter?", False),
        ("What is the rhythm?", False),
        ("Could you describe this ECG?", False),
        ("Does this ECG show it? Name what is present.", False),
        ("Describe the ECG.", False),
        ("Island rhythm?", False),
    ],
)
def test_questions_that_are_answered_with_yes_or_no(question, expected):
    assert is_yes_no_question(question) == expected


def test_the_same_items_are_one_answer():
    groups = answer_groups("B, a", ["a, b", "a", "b, A", "A.", "..."])
    assert groups == [["B, a", "a, b", "b, A"], ["a", "A."], ["..."]]
    question = "Which is present, incomplete left bundle branch block or atrial flutter?"
    items = ["left bundle branch block", "incomplete left bundle branch block", "atrial flutter", "flutter", "none"]
    assert named_in(question, items) == {"incomplete left bundle branch block", "atrial flutter"}


def rows_of(*rows: tuple) -> pd.DataFrame:
    names = ("question_type", "template_id", "question", "answer")
    return pd.DataFrame([dict(zip(names, row)) for row in rows])


def test_answer_sets_are_those_of_the_training_questions():
    training = rows_of(
        *(("single-choose", 10, "Which, a or b?", answer) for answer in (["a"], ["b"], ["c"], ["none"], ["b", "a"])),
        *(
            ("single-query", 20, "What?", answer)
            for answer in (["x"], ["y", "z"], ["x"], ["<think>\nX\n</think>\n\nx"])
        ),
        *(("single-query", 21, "Which all?", [f"f{number}"]) for number in range(MOST_ANSWERS + 1)),
        *(("single-verify", None, "Is it so?", [answer]) for answer in ("yes", "no", "not sure")),
    )
    asked = rows_of(
        ("single-choose", 10, "Which is present, a or b?", []),
        ("single-choose", 10, "Which is present, one of these?", []),
        ("single-query", 20, "What then?", []),
        ("single-query", 21, "Which all?", []),
        ("single-verify", None, "Is it so?", []),
        ("single-verify", None, "Is it new?", []),
        ("single-query", 99, "What is new?", []),
        ("single-query", 20, "What?", []),
        ("single-query", 20, "Is it?", []),
    )
    asked = asked.assign(conversation_id=[*range(7), 7, 7], turn=[0] * 8 + [1])
    found = AnswerSets(training).of_questions(asked)
    assert found[0] == (OPTIONS, ("a", "b", "none", "b, a"))
    assert found[1] == (TEMPLATE, ("a", "b", "c", "none", "b, a"))
    assert found[2] == (TEMPLATE, ("x", "y, z"))
    assert found[3] == (AS_WRITTEN, ())
    assert found[4] == (TEMPLATE, ("yes", "no", "not sure"))
    assert found[5] == (YES_OR_NO, ("yes", "no"))
    assert found[6:] == [
        (AS_WRITTEN, ()),
        (AS_WRITTEN, ()),
        (YES_OR_NO, ("yes", "no")),
    ]  # the last two are one conversation
    assert AnswerSets(None).of_questions(asked)[5] == (YES_OR_NO, ("yes", "no"))


# elm-hf ask


def test_ask_says_how_sure_the_model_is(folder, speaking_elm, speaking, run):  # noqa: F811
    question = "What is the rhythm?"
    arguments = ["ask", speaking_elm, "--question", question, "--sampling-rate", 250, "--max-new-tokens", 3]
    one = [*arguments, "--ecg", folder / "a.hea"]
    about = questions_about([AskedEcg("", None, None, folder / "a.hea")], [question])
    (expected,) = ask(*speaking, [about], 3, sure=ConfidenceOptions(RHYTHMS))[0]
    sure, given = expected["confidence"], expected["answer"]
    assert given == answer(*speaking, about.conversations(), 3)[0]
    assert sum(sure.others.values()) + sure.probability == pytest.approx(1) and set(RHYTHMS) <= {given, *sure.others}
    code, out, _ = run(*one, "--answers", ", ".join(RHYTHMS))
    assert code == 0 and out.splitlines()[2] == f"    {given}   ({sure.words()})"
    assert run(*one, "--confidence")[1].splitlines()[2].startswith(f"    {given}   (this wording: ")
    assert run(*one)[1].splitlines()[2] == f"    {given}"
    limit = min(1.0, sure.probability * 1.01)
    code, out, _ = run(*one, "--answers", ",".join(RHYTHMS), "--abstain-below", limit)
    assert out.splitlines()[2] == f"    not sure   ({sure.words_of_abstention(given)})"
    many = ("--ecg", folder, "--answers", ",".join(RHYTHMS), "--abstain-below", limit, "--output", "sure.csv")
    assert run(*arguments, *many)[0] == 0
    with Path("sure.csv").open(newline="") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    assert rows["a.hea"]["answer"] == "not sure"
    assert float(rows["a.hea"]["confidence"]) == pytest.approx(sure.probability, rel=1e-3)
    assert set(rows["a.hea"]["among"].split("; ")) == {given, *RHYTHMS}
    for wrong, message in (
        (("--answers", "yes"), '--answers takes two answers or more, separated by commas; got "yes"'),
        (("--abstain-below", "1.5"), "--abstain-below is 1.5; expected a number above 0, up to 1"),
    ):
        code, _, error = run(*one, *wrong)
        assert code == 1 and message in error
