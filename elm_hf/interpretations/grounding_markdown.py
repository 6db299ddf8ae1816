"""The section of `report.md` about GEM's aspects of grounded interpretations."""

from elm_hf.interpretations.grounding import ASPECTS
from elm_hf.scoring.markdown import markdown_table, score_cell


def grounding_sections(found: dict | None) -> list[str]:
    """
    The section, as a list of paragraphs; empty if no judge graded the answers.

    Args:
        found: `run.grounding` of `report.json`.
    """
    if found is None:
        return []
    rows = [
        [name.replace("_", " "), aspect.how, score_cell(found["aspects"][name])] for name, aspect in ASPECTS.items()
    ]
    return [
        "## Grounding (GEM's aspects)",
        f"{found['judged']} of {found['answers']} free-text answers with the ECG were graded by {found['judge']}, who reads the reference and "
        "not the ECG. Aspects and scales are those of GEM (Lan et al. 2025); the words of the rubric, and the judge, are others than theirs, "
        "so that the figures cannot be compared with published ones. In brackets the 95 % interval over patients.",
        markdown_table(["aspect", "scale", "mean"], rows, 2),
        *_beside_claims(found["measured"]),
        _costs(found),
    ]


def _beside_claims(measured: dict | None) -> list[str]:
    if measured is None or not measured["answers"]:
        return []
    false, true = (measured[f"grade_{which}_false_claim"] for which in ("with", "without"))
    text = (
        f"Beside them, what the ECG says: {measured['with_false_claim']} of {measured['answers']} graded answers about one ECG make a "
        "claim that the measurement contradicts (see Claims against the signal)."
    )
    for grade, which in ((false, "with"), (true, "without")):
        if grade is not None:
            text += f" Answers {which} such a claim got {grade:.1f} of 100 on average in the last three aspects."
    if measured["rank_correlation"] is not None:
        text += f" Rank correlation of these grades with the score of the claims: {measured['rank_correlation']:.2f}."
    return [text]


def _costs(found: dict) -> str:
    failed = ", ".join(f"{reason} {number}" for reason, number in found["failed_requests"].items()) or "none"
    return (
        f"{found['requests']} requests, {found['prompt_tokens']} tokens read and {found['completion_tokens']} written; failed requests: "
        f"{failed}; without a verdict: {found['without_verdict']}, which are left out."
    )
