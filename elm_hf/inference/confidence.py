"""How sure a model is of an answer: its probability among the answers of a set, or as it is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.messages import message_text, text_message
from elm_hf.inference.answer_sets import YES_NO, answer_groups, is_yes_no_question
from elm_hf.inference.generation import score_answers
from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.utils.exact_match import final_answer, reasoning_of, with_reasoning


# What a model answers that is not sure enough.
NOT_SURE = "not sure"
_MOST_SHOWN = 3


@dataclass(frozen=True)
class ConfidenceOptions:
    """
    How sure a model is to be asked to be.

    Attributes:
        candidates: the answers that are compared; by default what the form of the question gives, see [`confidences`].
        abstain_below: confidence below which the answer is `NOT_SURE`; None if every answer is given.
    """

    candidates: tuple[str, ...] | None = None
    abstain_below: float | None = None


@dataclass(frozen=True)
class Confidence:
    """
    How sure a model is of an answer.

    Attributes:
        probability: of the answer, between 0 and 1: among the answers of the set, or of the answer as it is written if no
            set is known.
        others: the other answers of the set with their probabilities, the most probable first; None if no set is known.
        length_normalised: like `probability`, from the mean log-probability of a token in the place of the sum; None if no
            set is known, or after a reasoning.
    """

    probability: float
    others: dict[str, float] | None = None
    length_normalised: float | None = None

    def words(self) -> str:
        """The confidence in words, such as `"83 % sure; no: 17 %"`."""
        if self.others is None:
            return f"this wording: {percent(self.probability)}"
        return f"{percent(self.probability)} sure; {self._others()}"

    def words_of_abstention(self, answer: str) -> str:
        """What a model would have answered that is not sure enough, such as `"yes: 54 %, no: 46 %"`."""
        if self.others is None:
            return f"its most probable wording: {percent(self.probability)}"
        return f"{answer}: {percent(self.probability)}, {self._others()}"

    def _others(self) -> str:
        shown = [f"{text}: {percent(value)}" for text, value in list(self.others.items())[:_MOST_SHOWN]]
        more = len(self.others) - len(shown)
        return ", ".join(shown + ([f"{more} others"] if more else []))


def percent(probability: float) -> str:
    """A probability in per cent; only 0 and 1 themselves are `0 %` and `100 %`."""
    if 0 < probability < 0.005:
        return "< 1 %"
    if 0.995 <= probability < 1:
        return "> 99 %"
    return f"{100 * probability:.0f} %"


def confidence_of(
    groups: Sequence[Sequence[str]], log_likelihoods: Sequence[float], num_tokens: Sequence[int] | None
) -> Confidence:
    """
    The confidence in the first answer.

    Texts end with the end of the turn, so no two of them can both be written, and their probabilities are those of
    different events: the probability of an answer is the sum over its texts, divided by the sum over all texts of the set.

    Args:
        groups: of [`~elm_hf.inference.answer_sets.answer_groups`]; a single group where no set is known.
        log_likelihoods: of all texts of all groups in turn, natural logarithms.
        num_tokens: of the same texts, with the end of the turn; None after a reasoning.
    """
    sums = np.asarray(log_likelihoods, float)
    if len(groups) == 1:
        return Confidence(float(np.exp(sums[0])))
    exact = _shares(sums, groups)
    normalised = None if num_tokens is None else float(_shares(sums / np.asarray(num_tokens), groups)[0])
    others = sorted(zip((group[0] for group in groups[1:]), exact[1:].tolist()), key=lambda one: -one[1])
    return Confidence(float(exact[0]), dict(others), normalised)


def _shares(scores: np.ndarray, groups: Sequence[Sequence[str]]) -> np.ndarray:
    """The probability of each group among all of them, from logarithms of its texts."""
    ends = np.cumsum([len(group) for group in groups])[:-1]
    of_groups = np.array([np.logaddexp.reduce(part) for part in np.split(scores, ends)])
    return np.exp(of_groups - np.logaddexp.reduce(of_groups))


def confidences(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: Sequence[list[dict]],
    texts: Sequence[str],
    candidates: Sequence[str] | None = None,
) -> list[Confidence | None]:
    """
    How sure a model is of its answers.

    The probabilities are those of the answers themselves. Of an answer with reasoning they are the probabilities after this
    reasoning, which says what the answer will be: they are near 1 as a rule, and without a set they are not known.

    Args:
        model, processor: of a checkpoint.
        conversations: message lists that end with a question, whose ECG items hold their ECGs.
        texts: what the model wrote, with its reasoning.
        candidates: the answers of the set. By default yes and no for a question with the form of one that is answered so
            ([`~elm_hf.inference.answer_sets.is_yes_no_question`]); for other questions no set is known.

    Returns:
        A confidence for each conversation; None for an empty answer.
    """
    groups = [groups_of(conversation, text, candidates) for conversation, text in zip(conversations, texts)]
    answered = [
        conversation_with(conversation, text, candidate)
        for conversation, text, those in zip(conversations, texts, groups)
        for group in those
        for candidate in group
    ]
    if not answered:
        return [None] * len(texts)
    batch = PromptBatch(model, processor, answered, answered=True)
    scores, tokens = score_answers(batch, model, part_size=len(conversations))
    found, start = [], 0
    for text, those in zip(texts, groups):
        end = start + sum(map(len, those))
        counts = None if reasoning_of(text) else tokens[start:end]
        found.append(confidence_of(those, scores[start:end], counts) if those else None)
        start = end
    return found


def groups_of(conversation: Sequence[dict], text: str, candidates: Sequence[str] | None) -> list[list[str]]:
    """The answers to compare, as in [`confidences`]; none if there is nothing to say."""
    answer, has_reasoning = final_answer(text), bool(reasoning_of(text))
    if candidates is None:
        candidates = YES_NO if is_yes_no_question(message_text(conversation[-1])) else ()
    groups = answer_groups(answer, candidates) if answer else []
    return [] if has_reasoning and len(groups) < 2 else groups


def conversation_with(conversation: Sequence[dict], text: str, answer: str) -> list[dict]:
    """The conversation with another answer in the place of the one in `text`, after the same reasoning."""
    reasoning = reasoning_of(text)
    return [*conversation, text_message("assistant", with_reasoning(reasoning, answer) if reasoning else answer)]
