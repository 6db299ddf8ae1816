"""The answers that each question of an evaluation decides among, from the training questions of the fold."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations

import pandas as pd

from elm_hf.inference.answer_sets import YES_NO, is_yes_no_question, named_in
from elm_hf.scoring.training_answers import different_answers, template_keys
from elm_hf.utils.exact_match import answer_items, final_answer


# How the answers of a question are known.
OPTIONS, TEMPLATE, YES_OR_NO, AS_WRITTEN = "options", "template", "yes or no", "as written"
# A template with more answers than this one asks for combinations of findings, of which no list is complete.
MOST_ANSWERS = 24
_NOTHING = ("none", "neither", "both")
_MOST_NAMED = 4


class AnswerSets:
    """
    The answers of the training questions, by template: by `template_id`, or by wording where there is none.

    Args:
        training_rows: `question_type`, `template_id`, `question` and `answer` of the training patients' questions; None
            where the fold has none.
    """

    def __init__(self, training_rows: pd.DataFrame | None):
        self._texts: dict[str, dict[frozenset, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
        self._items: dict[str, dict[str, None]] = defaultdict(dict)
        for key, answers in different_answers(training_rows)[0].items():
            for answer in answers:
                items = [item for item in map(final_answer, answer) if item]
                if not items:
                    continue
                text = ", ".join(items)
                self._texts[key][answer_items(text)][text] = None
                self._items[key] |= dict.fromkeys(items)

    def of_questions(self, questions: pd.DataFrame) -> list[tuple[str, tuple[str, ...]]]:
        """
        For each question how its answers are known, and the answers.

        - `OPTIONS`: of a question whose type contains "choose", the training answers of its template whose items the question
          names, and "none", "neither" and "both" if they occur.
        - `TEMPLATE`: all training answers of its template, up to `MOST_ANSWERS`.
        - `YES_OR_NO`: yes and no, of a template without training answers whose question has the form of one that is answered
          so, and of questions in longer conversations.
        - `AS_WRITTEN`: no set is known; there are no answers.

        Args:
            questions: of [`~elm_hf.evaluation.questions.list_questions`].
        """
        is_single = questions.groupby("conversation_id")["turn"].transform("size") == 1
        rows = zip(template_keys(questions)[0], questions["question_type"], questions["question"], is_single)
        return [self._of(*row) for row in rows]

    def _of(self, key: str, kind: str | None, question: str, is_single: bool) -> tuple[str, tuple[str, ...]]:
        texts = self._texts.get(key, {}) if is_single else {}
        if "choose" in str(kind).lower() and len(named := self._named(key, texts, question)) > 1:
            return OPTIONS, named
        every = tuple(text for those in texts.values() for text in those)
        if len(texts) > 1 and len(every) <= MOST_ANSWERS:
            return TEMPLATE, every
        if not texts and is_yes_no_question(question):
            return YES_OR_NO, YES_NO
        return AS_WRITTEN, ()

    def _named(self, key: str, texts: Mapping[frozenset, Iterable[str]], question: str) -> tuple[str, ...]:
        named = sorted(named_in(question, list(self._items.get(key, {}))))
        if not 0 < len(named) <= _MOST_NAMED:
            return ()
        parts = [answer_items(item) for item in (*named, *_NOTHING)]
        found = {
            frozenset().union(*some): None
            for number in range(1, len(named) + 1)
            for some in combinations(parts, number)
        }
        return tuple(text for items in found if items in texts for text in texts[items])
