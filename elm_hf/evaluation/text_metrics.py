"""Scores of free-text answers from the libraries of the extra `eval`: BLEU, ROUGE-L, METEOR; all between 0 and 1."""

import re
from functools import cache, lru_cache

import nltk
import numpy as np
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU


# BLEU-4 of two identical answers of less than four words is not 1, nor is METEOR, which has a penalty for each chunk.
LEAST_WORDS = 4
BLEU_ORDER = 4
_BLEU = BLEU(lowercase=True, effective_order=True)


class _WordTokenizer:
    """Words as rouge-score has them, stemmed if longer than three letters, and those with letters beyond a to z, which it drops."""

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
    """METEOR of words that match as they are, by stem or, if [`has_wordnet`], by synonym (Banerjee & Lavie 2005; NLTK)."""
    reference, hypothesis = (re.findall(r"\w+|[^\w\s]", text) for text in (truth, prediction))
    return single_meteor_score(reference, hypothesis, wordnet=nltk.corpus.wordnet if has_wordnet() else _NoSynonyms())


def bleu_counts(prediction: str, truth: str) -> np.ndarray:
    """
    What BLEU needs to know of an answer, to be summed over answers: matching n-grams and n-grams of the prediction for
    n = 1 to 4, words of the prediction, words of the truth (Papineni et al. 2002; sacrebleu's tokens "13a", lower case).
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
    """ROUGE-L, METEOR and [`bleu_counts`] of one answer, `(12,)`; answers often repeat. METEOR is NaN where undefined."""
    is_long = has_long_answer(truth)
    scores = [rouge_l(prediction, truth), meteor(prediction, truth) if is_long else np.nan]
    return np.concatenate([scores, bleu_counts(prediction, truth)])


def has_long_answer(truth: str) -> bool:
    """Whether BLEU-4 and METEOR are defined: the true answer has four words or more."""
    return len(truth.split()) >= LEAST_WORDS


@cache
def has_wordnet() -> bool:
    """Whether NLTK finds WordNet, of which METEOR takes synonyms (`python -m nltk.downloader wordnet`)."""
    try:
        nltk.corpus.wordnet.ensure_loaded()
    except LookupError:
        return False
    return True


class _NoSynonyms:
    """Stands in WordNet's place where its data is not at hand."""

    def synsets(self, word: str) -> list:
        return []
