"""Exact match of answers."""


def answer_items(text: str) -> frozenset[str]:
    """The items of a comma-separated answer, in lower case and without a final full stop."""
    items = (" ".join(item.split()).lower().rstrip(".").strip() for item in text.split(","))
    return frozenset(items) - {""}


def is_exact_match(prediction: str, truth: list[str]) -> bool:
    """
    Whether a comma-separated answer names the true items and no others, in any order and case (Oh et al. 2023, ECG-QA).

    One class of ECG-QA has commas in its name ("bigeminal pattern (unknown origin, supraventricular, or ventricular)"),
    so the true items are joined and split like the prediction. An empty answer is never right.
    """
    items = answer_items(prediction)
    return bool(items) and items == answer_items(", ".join(truth))
