"""The answers among which a question decides, and which texts are the same answer."""

import re
from collections.abc import Iterable, Sequence

from elm_hf.utils.exact_match import answer_items


YES_NO = ("yes", "no")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_AUXILIARY = re.compile(
    r"(?:^|[,:]\s+)(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might)\b"
)
# A question with one of these words is not answered with yes or no, although it may begin with "can you".
_OPEN = re.compile(
    r"\b(?:what|which|who|whose|where|when|why|how|or|describe|name|list|explain|give|tell|identify|specify)\b"
)


def is_yes_no_question(question: str) -> bool:
    """
    Whether an English question is answered with yes or no: its last sentence, or a part of it after a comma, begins with a
    verb such as "is" or "does", and it neither names alternatives nor asks for a name. A question that says "or" is never
    taken for one.
    """
    last = _SENTENCE_END.split(question.strip().lower())[-1]
    return last.endswith("?") and bool(_AUXILIARY.search(last)) and not _OPEN.search(last)


def answer_groups(answer: str, candidates: Iterable[str]) -> list[list[str]]:
    """
    The texts of each answer of a set; texts with the same items, in any order and case, are one answer.

    Args:
        answer: the answer that was given. It is the first text of the first group, whether it is in the set or not.
        candidates: the other answers of the set.
    """
    groups: dict[frozenset, list[str]] = {}
    for text in dict.fromkeys([answer, *candidates]):
        groups.setdefault(answer_items(text) or frozenset([text]), []).append(text)
    return list(groups.values())


def named_in(question: str, items: Sequence[str]) -> set[str]:
    """
    The items that a question names. One that occurs only as a part of a longer one, as "left bundle branch block" in
    "incomplete left bundle branch block", is not named.
    """
    rest, named = question.lower(), set()
    for item in sorted(items, key=lambda one: (-len(one), one)):
        pattern = rf"(?<!\w){re.escape(item.lower())}(?!\w)"
        if re.search(pattern, rest):
            named.add(item)
            rest = re.sub(pattern, " ", rest)
    return named
