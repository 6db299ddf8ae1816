"""
Text metrics as ECG-Bench computes them (Han et al. 2025), so that numbers can be compared with published ones.

They are averages over all answers that are not empty, short ones as well: words are what is between spaces, letter case and
punctuation count. ROUGE is that of the package `rouge` 1.0.1, which compares sets of words and not sequences, and parts
texts at each full stop. Better-founded metrics of the same names are in [`text_metrics`].
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import numpy as np

from elm_hf.scoring.markdown import markdown_table
from elm_hf.scoring.names import CONDITION_NAMES
from elm_hf.scoring.scores import Questions
from elm_hf.utils.exact_match import final_answer


NAMES = {
    "accuracy": "accuracy (equal strings)",
    "bleu": "BLEU (NLTK, corpus)",
    "bleu_sentence": "BLEU (NLTK, mean of sentences)",
    "meteor": "METEOR (NLTK)",
    "meteor_no_synonyms": "METEOR (NLTK) without synonyms",
    "rouge_1": "ROUGE-1 (rouge)",
    "rouge_2": "ROUGE-2 (rouge)",
    "rouge_l": "ROUGE-L (rouge)",
}
BLEU_ORDER = 4
# Added by `rouge` to the denominator of F1.
TINY = 1e-8


def ecg_bench_report(questions: Questions) -> dict[str, dict] | None:
    """
    The metrics of the answers under each condition, `ecg_bench` of `report.json`; None without the extra
    `eval`.

    The true answers are those of the conversations. `pairs` is the number of answers that count, `empty` that of the
    empty ones, which ECG-Bench leaves out.
    """
    if not all(map(find_spec, ("nltk", "sacrebleu", "rouge_score"))):
        return None
    truths = [final_answer(text) for text in questions.table["messages_answer"]]
    found = {}
    for condition, answers in questions.answers.items():
        pairs = [(truth, answer) for truth, answer in zip(truths, answers) if truth and answer]
        scores = ecg_bench_scores(*zip(*pairs)) if pairs else {}
        found[condition] = {"pairs": len(pairs), "empty": len(truths) - len(pairs)} | scores
    return found


def ecg_bench_scores(truths: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """
    The metrics of ECG-Bench, from 0 to 1.

    Args:
        truths, predictions: pairs of texts, none of them empty.
    """
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

    from elm_hf.scoring.text_metrics import has_wordnet

    words = [text.split() for text in predictions]
    bleu = corpus_bleu([[text.split()] for text in truths], words, smoothing_function=SmoothingFunction().method1)
    means = np.mean([_scores_of_pair(*pair) for pair in zip(truths, predictions)], axis=0)
    names = ("accuracy", "bleu_sentence", "meteor" if has_wordnet() else "meteor_no_synonyms", *_ROUGE_NAMES)
    scores = {"bleu": float(bleu)} | {name: float(value) for name, value in zip(names, means)}
    return {name: scores[name] for name in NAMES if name in scores}


_ROUGE_NAMES = ("rouge_1", "rouge_2", "rouge_l")


@lru_cache(maxsize=100_000)
def _scores_of_pair(truth: str, prediction: str) -> tuple[float, ...]:
    """Accuracy, BLEU, METEOR and three of ROUGE of one answer; answers often repeat."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    from elm_hf.scoring.text_metrics import meteor_of_words

    reference, hypothesis = truth.split(), prediction.split()
    order = min(BLEU_ORDER, len(reference), len(hypothesis))
    bleu = 0.0
    if order:
        weights, smoothing = (1 / order,) * order, SmoothingFunction().method1
        bleu = sentence_bleu([reference], hypothesis, weights=weights, smoothing_function=smoothing)
    return (float(truth == prediction), bleu, meteor_of_words(hypothesis, reference), *rouge_scores(truth, prediction))


def rouge_scores(truth: str, prediction: str) -> tuple[float, float, float]:
    """
    ROUGE-1, ROUGE-2 and ROUGE-L (F1) as the package `rouge` 1.0.1 computes them. 0 for a text of full stops alone, where
    it fails.
    """
    reference, hypothesis = _parts(truth), _parts(prediction)
    if not (reference and hypothesis):
        return 0.0, 0.0, 0.0
    all_of_reference, all_of_hypothesis = sum(reference, []), sum(hypothesis, [])
    scores = []
    for order in (1, 2):
        true, said = _ngrams(all_of_reference, order), _ngrams(all_of_hypothesis, order)
        scores.append(_f1(len(true & said), len(true), len(said)))
    common = {word for true in reference for said in hypothesis for word in _common_subsequence(true, said)}
    return *scores, _f1(len(common), len(set(all_of_reference)), len(set(all_of_hypothesis)))


def _parts(text: str) -> list[list[str]]:
    """The words of each part between full stops. A part of spaces alone has one word, the empty one."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _ngrams(words: list[str], order: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + order]) for start in range(len(words) - order + 1)}


def _f1(common: int, true: int, said: int) -> float:
    precision, recall = (common / number if number else 0.0 for number in (said, true))
    return 2 * precision * recall / (precision + recall + TINY)


def _common_subsequence(first: list[str], second: list[str]) -> list[str]:
    """The longest common subsequence; of several the one that the package finds, which goes back in `second` first."""
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, word in enumerate(first):
        for j, other in enumerate(second):
            longer = max(lengths[i][j + 1], lengths[i + 1][j])
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if word == other else longer
    found, i, j = [], len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            found.append(first[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def ecg_bench_sections(found: dict[str, dict] | None) -> list[str]:
    """The section of `report.md`, as a list of paragraphs; empty without the metrics."""
    if not found:
        return []
    rows = []
    for metric, name in NAMES.items():
        if any(metric in scores for scores in found.values()):
            cells = (f"{scores[metric]:.3f}" if metric in scores else "—" for scores in found.values())
            rows.append([name, *cells])
    rows.append(["answers", *(str(scores["pairs"]) for scores in found.values())])
    rows.append(["empty answers, left out", *(str(scores["empty"]) for scores in found.values())])
    head = ["metric", *(CONDITION_NAMES.get(name, name) for name in found)]
    text = (
        "For comparison with numbers of ECG-Bench (Han et al. 2025) and its successors only: these metrics differ from those of "
        "the same name above. Words are what is between spaces, case and punctuation count, answers of all lengths are averaged, "
        "empty answers are left out, and ROUGE compares sets of words. Identical answers of fewer than four words do not get a "
        "BLEU of 1, nor METEOR."
    )
    return [f"## Text metrics as in ECG-Bench\n\n{text}\n\n{markdown_table(head, rows)}"]
