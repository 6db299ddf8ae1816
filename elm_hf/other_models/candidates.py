"""The answers that a question can have, as far as other questions show them, and replies that are none of them."""

import re
from collections.abc import Collection

import pandas as pd

from elm_hf.scoring.training_answers import different_answers, template_keys
from elm_hf.utils.exact_match import answer_items, final_answer


# Words that are also in replies that are no answers ("there is no image"): they count at the start of a reply or at the
# end of a clause only.
SHORT_ANSWERS = ("yes", "no", "none", "not sure")


def candidate_answers(questions: pd.DataFrame, answered: pd.DataFrame | None) -> list[frozenset[str]]:
    """
    The items of the answers that other questions of the same template have (of the same type, where the template is
    unknown); for each question.

    Args:
        questions: with `question_type`, `template_id` and `question`.
        answered: the same columns of the other questions, and `answer`.
    """
    by_template, by_type = map(_items, different_answers(answered))
    return [
        by_template.get(template) or by_type.get(kind, frozenset())
        for template, kind in zip(*template_keys(questions))
    ]


def _items(answers: dict[str, dict[tuple, None]]) -> dict[str, frozenset[str]]:
    """The items of all answers with the same key."""
    return {
        key: frozenset(item for items in some for item in answer_items(", ".join(filter(None, items))))
        for key, some in answers.items()
    }


def names_a_candidate(reply: str, candidates: Collection[str]) -> bool:
    """Whether a reply contains one of the candidates as whole words, in any case."""
    text = final_answer(reply).lower()
    words = f" {_words(text)} "
    for candidate in candidates:
        if candidate in SHORT_ANSWERS:
            if re.search(rf"^\W*{candidate}\b|\b{candidate}\s*(?=$|[^\w\s'’-])", text):
                return True
        elif f" {_words(candidate)} " in words:
            return True
    return False


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
