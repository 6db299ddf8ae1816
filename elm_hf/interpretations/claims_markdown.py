"""The section of `report.md` about the claims of answers."""

from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.scoring.names import CONDITION_NAMES


def claim_sections(claims: dict | None, figure: str | None = None) -> list[str]:
    """
    The section, as a list of paragraphs; empty without claims.

    Args:
        claims: of `report.json`.
        figure: path of its figure.
    """
    if claims is None:
        return []
    return [
        "## Claims against the signal",
        f"**{reliance_sentence(claims['reliance'])}**",
        _explanation(claims),
        _by_condition(claims),
        *(
            [f"![Share of the claims that are true, and of the abnormal findings that are stated]({figure})"]
            if figure
            else []
        ),
        *_by_finding(claims),
    ]


def reliance_sentence(reliance: dict) -> str:
    """Whether what the answers say of the measurements depends on the ECG."""
    if reliance["reads_ecg"] is None:
        return f"Whether the claims of this model depend on the ECG was not settled: {reliance['note']}."
    figures = (
        f"score with the ECG minus the best score without it ({CONDITION_NAMES[reliance['best_control']]}) "
        f"{reliance['score']:.3f} [{reliance['low']:.3f}, {reliance['high']:.3f}]"
    )
    claim = "depend on the ECG" if reliance["reads_ecg"] else "show no evidence of the ECG"
    return f"The claims of this model {claim}: {figures}."


def claims_sentence(claims: dict) -> str:
    """What the answers claim of the ECG, in a sentence for the card."""
    name = "ecg" if "ecg" in claims["conditions"] else next(iter(claims["conditions"]))
    found, control = claims["conditions"][name], claims["reliance"]["best_control"]
    of, stated = found["precision"]["of"], found["recall"]["of"]
    parts = [
        f"Claims of {claims['answers']} answers ({CONDITION_NAMES.get(name, name)}, {claims['patients']} patients), compared with the "
        f"measured ECG: {score_cell(found['precision'])} of {of} are true",
        f"{score_cell(found['false_per_answer'])} false ones per answer",
    ]
    if control is not None and claims["conditions"][control]["precision"]["score"] is not None:
        parts[0] += f" ({CONDITION_NAMES[control]}: {claims['conditions'][control]['precision']['score']:.3f})"
    if stated:
        parts.append(f"{score_cell(found['recall'])} of {stated} abnormal findings are stated")
    return f"{'; '.join(parts)}. {reliance_sentence(claims['reliance'])}"


def _explanation(claims: dict) -> str:
    several = claims["of_several_ecgs"]
    return (
        f"Statements about rate, rhythm, intervals, axis, ST, T, voltage, pauses and premature beats in {claims['answers']} answers "
        f"about one ECG each ({claims['patients']} patients), compared with what is measured in the true ECG, under every condition. "
        "A claim is true if the measurement agrees with it, false if it disagrees by more than the error of the measurement, and "
        "otherwise not checkable. Recall: the share of abnormal findings, present beyond doubt, that the answers state, in "
        f"{claims['asking_for_all_findings']} answers to questions that ask for all findings. Score: from -1 to 1, 0 for an answer without "
        "claims. In brackets the 95 % interval over patients."
        + (f" Questions about several ECGs ({several}) are left out." if several else "")
    )


def _by_condition(claims: dict) -> str:
    head = [
        "answers",
        "claims",
        "not checkable",
        "hedged",
        "precision",
        "false per answer",
        "answers with a false claim",
    ]
    rows = []
    for name, found in claims["conditions"].items():
        cells = [
            score_cell(found[key])
            for key in ("precision", "false_per_answer", "answers_with_false", "recall", "score")
        ]
        counts = [str(found[key]) for key in ("claims", "not_checkable", "hedged")]
        rows.append([CONDITION_NAMES.get(name, name), *counts, *cells])
    return markdown_table([*head, "recall", "score"], rows)


def _by_finding(claims: dict) -> list[str]:
    findings = claims["conditions"].get("ecg", {}).get("findings", {})
    if not findings:
        return []
    rows = [
        [
            name,
            *(str(found[key]) for key in ("true", "false", "not_checkable")),
            score_cell(found["precision"]),
            str(found["present"]),
            score_cell(found["recall"]),
        ]
        for name, found in findings.items()
    ]
    head = ["finding", "true", "false", "not checkable", "precision", "present", "recall"]
    return ["With the ECG, by abnormal finding:", markdown_table(head, rows)]
