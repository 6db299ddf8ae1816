"""What can be answered by copying: the answer to the same, or the most similar, question of the training patients."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from elm_hf.scoring.intervals import PatientBootstrap, Support
from elm_hf.scoring.scores import score_entry
from elm_hf.scoring.training_answers import train_answers
from elm_hf.utils.exact_match import answer_items, is_exact_match


MOST_EXAMPLES = 5
_AT_ONCE = 512


def copying_report(
    asked: pd.DataFrame, training: pd.DataFrame, patients: Sequence[Sequence[str]], seed: int = 0
) -> dict:
    """
    How many questions are right if each gets the most frequent answer to the same words in training, or, for new words, to the
    most similar question.

    Args:
        asked, training: questions with `question` and `answer`, a list of strings.
        patients: whom each question of `asked` is about.
        seed: random seed of the interval.

    Returns:
        `questions`, `in_training` (the share whose words occur in training), `copying` (the share that is right, with its
        95 % interval over patients).
    """
    answers, known = copied_answers(asked["question"], training)
    right = np.array([is_exact_match(said, list(items)) for said, items in zip(answers, asked["answer"])], float)
    bootstrap = PatientBootstrap(patients, seed=seed)
    rows = np.arange(len(right))
    shares = bootstrap.means(right[:, None], rows)[:, 0]
    entry = score_entry(shares, Support(bootstrap.least(rows), len(rows), is_share=True)) | {"answers": len(rows)}
    return {"questions": len(right), "in_training": float(known.mean()), "copying": entry}


def copied_answers(questions: Sequence[str], training: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """
    The most frequent training answer to each question, or to the one of the most similar words.

    Args:
        questions: what is asked.
        training: `question` and `answer` of the training patients.

    Returns:
        The answers, and whether the very question occurs in training, `(questions,)`. Case and spaces do not count.
    """
    training = training[training["answer"].notna()]
    counts: dict[str, Counter] = defaultdict(Counter)
    for words, answer in zip(map(_plain, training["question"]), train_answers(training)):
        counts[words][answer] += 1
    answer_to = {words: min(found, key=lambda one: (-found[one], one)) for words, found in sorted(counts.items())}
    wanted = [_plain(one) for one in questions]
    known = np.array([words in answer_to for words in wanted])
    unseen = sorted({words for words, seen in zip(wanted, known) if not seen})
    answer_to |= {words: answer_to[nearest] for words, nearest in zip(unseen, _nearest(unseen, list(answer_to)))}
    return [answer_to[words] for words in wanted], known


def _plain(question: str) -> str:
    return " ".join(question.lower().split())


def _nearest(questions: Sequence[str], known: Sequence[str]) -> list[str]:
    """The known question whose words and pairs of words are most similar to those of each question (cosine of TF-IDF)."""
    if not questions:
        return []
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", dtype=np.float32)
    vectors = vectorizer.fit_transform(known)
    found = []
    for start in range(0, len(questions), _AT_ONCE):
        likeness = vectorizer.transform(questions[start : start + _AT_ONCE]) @ vectors.T
        found += [known[place] for place in np.asarray(likeness.argmax(axis=1)).ravel()]
    return found


def questions_about_twins(
    asked: pd.DataFrame, training: pd.DataFrame, twins: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, dict]:
    """
    The questions about ECGs that have a near-duplicate in training, and which of them are asked about it there, too.

    Args:
        asked, training: questions with `question`, `answer` and `record_ids`.
        twins: for each record with near-duplicates in training the ids of these.

    Returns:
        Whether a question is about such an ECG, `(questions,)`; and their number `about_duplicates`, the number of those that
        are asked in training about the near-duplicates (`asked_in_training`) and have the same answer there (`copied`), with
        `examples`.
    """
    about = np.array([any(name in twins for name in names) for names in asked["record_ids"]], dtype=bool)
    answers: dict[tuple, list] = defaultdict(list)
    of_twins = {name for names in twins.values() for name in names}
    if about.any():
        for words, names, items in zip(training["question"], training["record_ids"], training["answer"]):
            if of_twins.intersection(names):
                answers[_plain(words), tuple(names)].append(answer_items(", ".join(items)))
    repeated, copied, examples = 0, 0, []
    for words, names, items in asked.loc[about, ["question", "record_ids", "answer"]].itertuples(index=False):
        others = product(*(twins.get(name, (name,)) for name in names))
        found = [(those, one) for those in others for one in answers.get((_plain(words), those), ())]
        is_copied = [those for those, one in found if one == answer_items(", ".join(items))]
        repeated, copied = repeated + bool(found), copied + bool(is_copied)
        if is_copied and len(examples) < MOST_EXAMPLES:
            example = {"question": words, "answer": ", ".join(items), "records": list(names)}
            examples.append(example | {"training_records": list(is_copied[0])})
    counted = {"about_duplicates": int(about.sum()), "asked_in_training": repeated, "copied": copied}
    return about, counted | {"examples": examples}
