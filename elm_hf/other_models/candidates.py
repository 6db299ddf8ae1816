"""The answers that a question can have, as far as other questions show them, and replies that are none of them."""

import re
from collections import defaultdict
from collections.abc import Collection

import pandas as pd

from elm_hf.scoring.training_answers import template_keys
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
    by_template, by_type = defaultdict(set), defaultdict(set)
    if answered is not None:
        known = answered[answered["answer"].notna()].reset_index(drop=True)
        for template, kind, items in zip(*template_keys(known), known["answer"]):
            found = answer_items(", ".join(filter(None, items)))
            by_template[template] |= found
            by_type[kind] |= found
    return [
        frozenset(by_template.get(template) or by_type.get(kind, ()))
        for template, kind in zip(*template_keys(questions))
    ]


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
