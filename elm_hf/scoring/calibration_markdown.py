"""The section of `report.md` about how sure a model is."""

from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.scoring.names import CONDITION_NAMES


_SETS = {
    "template": "all training answers of the question's template",
    "options": "training answers that the question names",
    "yes or no": "yes and no",
    "as written": "no set: the answer as it is written",
}


def calibration_sections(report: dict) -> list[str]:
    """
    The section, as a list of paragraphs; empty if the confidence was not measured.

    Args:
        report: as in report.json.
    """
    found = report["calibration"]
    if found is None:
        return []
    picture = report["figures"].get("calibration")
    return [
        "## How sure the model is",
        "\n\n".join(f"**{sentence}**" for sentence in found["sentences"]),
        _explanation(found),
        *(
            [f"![Calibration, what is gained by not answering, and confidence without the ECG]({picture})"]
            if picture
            else []
        ),
        _by_condition(found),
        *_by_answer_set(found),
        *_thresholds(found),
    ]


def _explanation(found: dict) -> str:
    text = (
        "Confidence: the probability of the model's answer among the answers to the same question in the training data, each with the "
        "end of its turn. Calibrated means that of the answers with a confidence of 0.8, 0.8 are right. ECE: expected calibration "
        f"error in {found['bins']} bins of equal width; in parentheses what chance alone would give. Brier: mean squared difference of "
        "confidence and right (1) or wrong (0). In brackets the 95 % interval over patients."
    )
    return text + (f" {found['free_text']} free-text answers are left out." if found["free_text"] else "")


def _row(name: str, one: dict) -> list[str]:
    ece = f"{score_cell(one['ece'])} ({one['ece']['if_calibrated']:.3f})"
    return [
        name,
        str(one["answers"]),
        score_cell(one["confidence"]),
        score_cell(one["accuracy"]),
        ece,
        score_cell(one["brier"]),
    ]


_HEAD = ["answers", "mean confidence", "right", "ECE", "Brier"]


def _by_condition(found: dict) -> str:
    rows = [_row(CONDITION_NAMES.get(name, name), one) for name, one in found["conditions"].items() if one["answers"]]
    return markdown_table(["condition", *_HEAD], rows)


def _by_answer_set(found: dict) -> list[str]:
    rows = [_row(_SETS[name], one) for name, one in found["answer_sets"].items()]
    normalised = found["length_normalised"]
    if normalised is not None:
        rows.append(_row("answers of a set, with mean log-probabilities of tokens", normalised["length_normalised"]))
    if not rows:
        return []
    return ["With the ECG, by what the answer is compared with:", markdown_table(["among", *_HEAD], rows)]


def _thresholds(found: dict) -> list[str]:
    curve = found["risk_coverage"]
    if curve is None:
        return []
    text = (
        f"Area under the risk-coverage curve: {score_cell(curve['area'])}; {curve['area_of_random_order']:.3f} if the confidence said "
        f"nothing, {curve['area_of_best_order']:.3f} if every right answer were surer than every wrong one. If the model says "
        '"not sure" below a confidence (`elm-hf ask --abstain-below`):'
    )
    rows = [
        [f"{one['threshold']:g}", str(one["answers"]), f"{one['coverage']:.3f}"]
        + ["—" if one["accuracy"] is None else score_cell(one["accuracy"])]
        for one in curve["thresholds"]
    ]
    return [text, markdown_table(["confidence from", "answers", "share answered", "right of these"], rows, 0)]
