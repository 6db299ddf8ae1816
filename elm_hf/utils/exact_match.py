"""Exact match of answers, and the answer behind a reasoning."""

import re

from elm_hf.modeling.chat_rendering import END_OF_REASONING


_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
START_OF_REASONING = "<think>"


def final_answer(text: str) -> str:
    """
    The answer without its reasoning: the last `<answer>...</answer>`, or else what follows the last `</think>`. A reasoning
    that was cut has no answer.
    """
    if found := _ANSWER.findall(text):
        return found[-1].strip()
    if END_OF_REASONING in text:
        return text.rsplit(END_OF_REASONING, 1)[1].strip()
    return "" if text.lstrip().startswith(START_OF_REASONING) else text.strip()


def reasoning_of(text: str) -> str:
    """The reasoning before an answer, without its marks; empty if there is none."""
    if END_OF_REASONING in text:
        text = text.rsplit(END_OF_REASONING, 1)[0]
    elif not text.lstrip().startswith(START_OF_REASONING):
        return ""
    return text.strip().removeprefix(START_OF_REASONING).strip()


def with_reasoning(reasoning: str, answer: str) -> str:
    """The text of an answer behind its reasoning."""
    return f"{START_OF_REASONING}\n{reasoning}\n{END_OF_REASONING}\n\n{answer}"


def answer_items(text: str) -> frozenset[str]:
    """The items of an answer that are separated by commas or semicolons, in lower case and without a final full stop."""
    items = (" ".join(item.split()).lower().rstrip(".").strip() for item in re.split("[,;]", text))
    return frozenset(items) - {""}


def is_exact_match(prediction: str, truth: list[str]) -> bool:
    """
    Whether a comma-separated answer names the true items and no others, in any order and case (Oh et al. 2023, ECG-QA).

    One class of ECG-QA has commas in its name ("bigeminal pattern (unknown origin, supraventricular, or ventricular)"),
    so the true items are joined and split like the prediction. An empty answer is never right. Of answers with reasoning,
    the [`final_answer`] counts.
    """
    items = answer_items(final_answer(prediction))
    return bool(items) and items == answer_items(", ".join(map(final_answer, truth)))
