"""Scores of free-text answers from the libraries of the extra `eval`: BLEU, ROUGE-L, METEOR; all between 0 and 1."""

import re
from functools import cache, lru_cache

import nltk
import numpy as np
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU


# Below four words neither BLEU-4 nor METEOR, with its penalty for each chunk, is 1 for identical answers.
LEAST_WORDS = 4
BLEU_ORDER = 4
_BLEU = BLEU(lowercase=True, effective_order=True)


class _WordTokenizer:
    """Words as in rouge-score, stemmed if longer than three letters, and also words in other scripts, which it drops."""

    def __init__(self):
        self._stem = PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        words = re.findall(r"[^\W_]+", text.lower())
        return [self._stem(word) if len(word) > 3 and word.isascii() else word for word in words]


_ROUGE = RougeScorer(["rougeL"], tokenizer=_WordTokenizer())


def rouge_l(prediction: str, truth: str) -> float:
    """F1 of the longest common subsequence of words, stemmed (Lin 2004; rouge-score)."""
    return _ROUGE.score(truth, prediction)["rougeL"].fmeasure


def meteor(prediction: str, truth: str) -> float:
    """METEOR: words match exactly, by stem or, if [`has_wordnet`], by synonym (Banerjee & Lavie 2005; NLTK)."""
    return meteor_of_words(*(re.findall(r"\w+|[^\w\s]", text) for text in (prediction, truth)))


def meteor_of_words(prediction: list[str], truth: list[str]) -> float:
    """METEOR of two texts in words."""
    return single_meteor_score(truth, prediction, wordnet=nltk.corpus.wordnet if has_wordnet() else _NoSynonyms())


def bleu_counts(prediction: str, truth: str) -> np.ndarray:
    """
    The counts that BLEU sums over answers: matching n-grams and n-grams of the prediction for n = 1 to 4, words of the
    prediction, and words of the truth (Papineni et al. 2002; sacrebleu's tokens "13a", lower case).
    """
    score = _BLEU.sentence_score(prediction, [truth])
    return np.array([*score.counts, *score.totals, score.sys_len, score.ref_len], dtype=float)


def bleu_of_sums(sums: np.ndarray, order: int) -> float:
    """Corpus BLEU of n-grams up to `order` from the sum of [`bleu_counts`] over answers, with sacrebleu's smoothing."""
    sums = np.rint(sums).astype(int).tolist()
    score = BLEU.compute_bleu(
        sums[:order],
        sums[BLEU_ORDER : BLEU_ORDER + order],
        sums[-2],
        sums[-1],
        smooth_method="exp",
        max_ngram_order=order,
    )
    return score.score / 100


@lru_cache(maxsize=100_000)
def text_scores(prediction: str, truth: str) -> np.ndarray:
    """ROUGE-L, METEOR (NaN where it is not defined) and [`bleu_counts`] of one answer, `(12,)`; answers often repeat."""
    is_long = has_long_answer(truth)
    scores = [rouge_l(prediction, truth), meteor(prediction, truth) if is_long else np.nan]
    return np.concatenate([scores, bleu_counts(prediction, truth)])


def has_long_answer(truth: str) -> bool:
    """Whether BLEU-4 and METEOR are defined: the true answer has four words or more."""
    return len(truth.split()) >= LEAST_WORDS


@cache
def has_wordnet() -> bool:
    """Whether NLTK finds WordNet, METEOR's source of synonyms (`python -m nltk.downloader wordnet`)."""
    try:
        nltk.corpus.wordnet.ensure_loaded()
    except LookupError:
        return False
    return True


class _NoSynonyms:
    """Replaces WordNet where its data is not installed."""

    def synsets(self, word: str) -> list:
        return []
