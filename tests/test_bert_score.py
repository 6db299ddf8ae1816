"""BERTScore: against its definition spelt out over tokens, and in reports with and without it."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, RobertaConfig, RobertaModel

from elm_hf.comparison.compare import aggregate, compare
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.evaluation.report import write_report
from elm_hf.scoring.bert_score import BertScorer


for name in ("sacrebleu", "rouge_score", "nltk"):
    pytest.importorskip(name, reason="needs the extra `eval`")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["sinus", "rhythm", "atrial", "fibrillation", "rapid", "normal", "ecg", "in", "every", "lead"]
WORDS += ["left", "axis", "deviation", "and", "with", "lvh", ","]
VOCABULARY = {word: number for number, word in enumerate(SPECIAL + WORDS)}
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 34,
    "initializer_range": 0.5,  # so that random weights tell words apart
}
RHYTHM, FIBRILLATION, NORMAL = (
    "sinus rhythm with left axis deviation and lvh",
    "rapid atrial fibrillation , left axis deviation",
    "normal ecg",
)
RUN = {"checkpoint": "my-elm", "dataset": "data", "fold": "1", "split": "test", "limit": None}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A masked language model as they are published: with a head that BERTScore leaves, without the pooler."""
    folder = tmp_path_factory.mktemp("encoders") / "tiny-bert"
    BertTokenizer(vocab=VOCABULARY).save_pretrained(folder)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**SIZES, num_hidden_layers=4)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(encoder) -> BertScorer:
    return BertScorer(str(encoder), batch_size=2, quiet=True)


def f1_by_hand(encoder: Path, prediction: str, truth: str, layer: int) -> float:
    """The definition, text by text and token by token; the first and the last are [CLS] and [SEP]."""
    model = BertForMaskedLM.from_pretrained(encoder).eval()
    vectors = []
    for text in (prediction, truth):
        ids = [VOCABULARY[word] for word in ("[CLS]", *text.split(), "[SEP]")]
        with torch.no_grad():
            vectors.append(model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0])
    means = []
    for mine, others in (vectors, vectors[::-1]):
        best = [max(float(torch.cosine_similarity(one, other, dim=0)) for other in others) for one in mine[1:-1]]
        means.append(sum(best) / len(best))
    precision, recall = means
    return 2 * precision * recall / (precision + recall)


def test_scores_are_the_definition_whatever_stands_in_the_batch(encoder, scorer):
    pairs = [(RHYTHM, FIBRILLATION), (FIBRILLATION, RHYTHM), (NORMAL, RHYTHM), ("lvh", FIBRILLATION), (RHYTHM, NORMAL)]
    found = scorer.scores(pairs)
    assert scorer.summary["layer"] == 3 and scorer.summary["layers"] == 4
    for pair in pairs:
        assert found[pair] == pytest.approx(f1_by_hand(encoder, *pair, layer=3), abs=2e-6)
    assert all(0.1 < score < 0.95 for score in found.values())
    assert found[RHYTHM, FIBRILLATION] == found[FIBRILLATION, RHYTHM]  # precision and recall change places


def test_an_encoder_has_the_same_fingerprint_whenever_it_is_loaded(encoder, scorer):
    assert BertScorer(str(encoder)).summary["weights"] == scorer.summary["weights"]


def test_identical_texts_have_1_and_empty_ones_0(scorer):
    found = scorer.scores(
        [(RHYTHM, RHYTHM), (f" {RHYTHM}\n", RHYTHM), ("", RHYTHM), (" ", NORMAL), ("\u200b", NORMAL)]
    )
    assert list(map(found.get, [(RHYTHM, RHYTHM), (f" {RHYTHM}\n", RHYTHM)])) == [1, 1]
    assert [score for (prediction, _), score in found.items() if len(prediction) < 2] == [0, 0, 0]


def test_each_distinct_pair_is_computed_once_and_long_texts_are_cut_and_counted(scorer, monkeypatch):
    compared = []
    compute = scorer._f1
    monkeypatch.setattr(scorer, "_f1", lambda pairs: compared.extend(pairs) or compute(pairs))
    long = "sinus rhythm " * 40
    found = scorer.scores([(RHYTHM, NORMAL)] * 5 + [(long, NORMAL), (long, NORMAL), ("", NORMAL)])
    assert sorted(compared) == sorted([(RHYTHM, NORMAL), (long, NORMAL)]) and len(found) == 3
    assert (scorer.summary["pairs"], scorer.summary["cut"]) == (3, 1)
    assert 0 < found[long, NORMAL] < 1


@pytest.mark.parametrize(
    "kind, num_layers, layer", [("bert", 12, 9), ("bert", 24, 18), ("roberta", 12, 10), ("roberta", 24, 17)]
)
def test_the_layer_is_the_one_that_the_authors_chose(kind, num_layers, layer, encoder, tmp_path):
    config = (RobertaConfig if kind == "roberta" else BertConfig)(**SIZES, num_hidden_layers=num_layers)
    (RobertaModel(config) if kind == "roberta" else BertForMaskedLM(config)).save_pretrained(tmp_path)
    BertTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    assert BertScorer(str(tmp_path)).summary["layer"] == layer


@pytest.mark.parametrize(
    "missing, message",
    [
        ("everything", "no such folder, and not the name of a repository"),
        ("model.safetensors", "model.safetensors"),
        ("tokenizer.json", "the folder of the model has no tokenizer with a vocabulary"),
        ("encoder", "weights are missing, such as encoder.layer.0"),
        ("vocabulary", "its tokenizer has 22 tokens, the model 20"),
    ],
)
def test_what_is_no_encoder_is_named_before_anything_else(missing, message, encoder, tmp_path):
    folder = tmp_path / "encoder"
    if missing != "everything":
        shutil.copytree(encoder, folder)
    if missing in ("encoder", "vocabulary"):
        sizes = SIZES | ({"vocab_size": 20} if missing == "vocabulary" else {})
        model = BertForMaskedLM(BertConfig(**sizes, num_hidden_layers=2))
        weights = (
            {} if missing == "vocabulary" else {"state_dict": model.bert.embeddings.state_dict(prefix="embeddings.")}
        )
        model.save_pretrained(folder, **weights)
    elif missing != "everything":
        (folder / missing).unlink()
    with pytest.raises(ValueError, match=f"encoder: not a model for BERTScore; --bert-score takes .*{message}"):
        evaluate("no-elm", "no-dataset", output=tmp_path / "report", bert_score=str(folder))
    assert not (tmp_path / "report").exists()


def predictions(said: dict[str, list[str]]) -> pd.DataFrame:
    """Answers under each condition to questions of two types about 12 patients; every third true answer is short."""
    truths = [RHYTHM, FIBRILLATION, NORMAL] * 4
    rows = [
        {
            "question_id": f"c{number}#0",
            "conversation_id": f"c{number}",
            "turn": 0,
            "condition": condition,
            "question_type": "findings" if number < 6 else "report",
            "attribute_type": None,
            "template_id": None,
            "question": "What does this ECG show?",
            "answer": [truth],
            "messages_answer": truth,
            "prediction": answers[number % len(answers)],
            "num_tokens": 5,
            "finished": True,
            "record_ids": [f"r{number}"],
            "patient_ids": [f"p{number}"],
        }
        for condition, answers in said.items()
        for number, truth in enumerate(truths)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def folders(encoder, tmp_path_factory) -> tuple[Path, Path]:
    """The report of one model with BERTScore and of another one without."""
    root = tmp_path_factory.mktemp("reports")
    said = {"ecg": [RHYTHM, "", NORMAL], "none": [FIBRILLATION]}
    for name, scorer in (("with", BertScorer(str(encoder), quiet=True)), ("without", None)):
        table = predictions(said if name == "with" else {"ecg": [FIBRILLATION], "none": [RHYTHM]})
        training = pd.DataFrame({"question_type": ["report"], "question": ["What?"], "answer": [[RHYTHM]]})
        write_report(root / name, table, RUN | {"weights": name}, training, bert_scorer=scorer)
        table.to_parquet(root / name / "predictions.parquet")
    return root / "with", root / "without"


def test_the_report_has_bert_score_by_question_type_with_intervals(folders, encoder, scorer):
    report = json.loads((folders[0] / "report.json").read_text())
    away = scorer.scores([(FIBRILLATION, RHYTHM)])[FIBRILLATION, RHYTHM]
    for group, answers in (("all", 8), ("findings", 4), ("report", 4)):
        # "normal ecg" has too few words; of the others a half is right and a half is empty
        entries = {name: metrics["bert_score"] for name, metrics in report["scores"][group]["conditions"].items()}
        assert {entry["answers"] for entry in entries.values()} == {answers}
        assert entries["ecg"]["score"] == pytest.approx(0.5)
        assert entries["none"]["score"] == entries["blind"]["score"] == pytest.approx((1 + away) / 2)
        assert entries["ecg"]["low"] < 0.5 < entries["ecg"]["high"]
    assert report["conditions"]["ecg"]["empty"] == 4
    used = report["bert_score"]
    assert (used["model"], used["layer"], used["layers"]) == ("tiny-bert", 3, 4)
    # two truths, and as predictions each of them and the empty one: all but the empty one for the first
    assert used["pairs"] == 5 and used["cut"] == 0

    text = (folders[0] / "report.md").read_text()
    assert "layer 3 of 4 of tiny-bert" in text and f"transformers {used['transformers']}" in text
    section = text.split("## BERTScore\n")[1].split("\n## ")[0]
    half = f"{(1 + away) / 2:.3f}"
    assert f"| report | 4 | 6 | 0.500 [0.022, 0.978] | {half} | {half} |" in section


def test_reports_without_it_do_not_speak_of_it_and_go_with_those_that_have_it(folders):
    report = json.loads((folders[1] / "report.json").read_text())
    assert report["bert_score"] is None and "bert_score" not in report["scores"]["all"]["conditions"]["ecg"]
    assert "BERTScore" not in (folders[1] / "report.md").read_text()
    for pair in (folders, folders[::-1]):
        assert compare(*pair)["scores"]["all, ROUGE-L"]["answers"] == 12
        assert aggregate(pair)["scores"]["all"]["ecg"]["metric"] == "rouge_l"


def test_without_long_free_text_the_report_says_so(scorer, tmp_path):
    table = predictions({"ecg": ["yes"]}).assign(answer=[["yes"]] * 12, messages_answer="yes")
    report = write_report(tmp_path, table, RUN, bert_scorer=scorer)
    assert "no BERTScore: no true answer is free text of four words or more" in report["notes"]
    assert (tmp_path / "report.md").read_text().count("BERTScore") == 1
