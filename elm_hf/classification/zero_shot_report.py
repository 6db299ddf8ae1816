"""The report of a zero-shot classification as Markdown."""

from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.scoring.names import CONDITION_NAMES


WAYS = ("letter", "likelihood")
METRICS = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
NAMES = CONDITION_NAMES | {"permuted": "with ECG, letters permuted"}


def zero_shot_table(report: dict) -> str:
    """The scores as Markdown."""
    seen = report["seen_patients"]["sentence"]
    parts = [f"{seen[0].upper()}{seen[1:]}."] if seen else []
    parts += [
        f"### {name}: {found['ecgs']} ECGs, {found['patients']} patients\n\n"
        + (_auroc_table(found) if "macro_auroc" in found else _choice_section(found, report["run"]))
        for name, found in report["tasks"].items()
    ]
    return "\n\n".join(parts)


def _auroc_table(found: dict) -> str:
    rows = [[label, str(entry["ecgs"]), score_cell(entry)] for label, entry in found["classes"].items()]
    rows.append(["mean", "", score_cell(found["macro_auroc"])])
    return markdown_table(["class", "ECGs", "AUROC"], rows)


def _choice_section(found: dict, run: dict) -> str:
    rows = [[metric.replace("_", " "), *(score_cell(found[way][metric]) for way in WAYS)] for metric in METRICS]
    rows.append(["no choice", *(str(found[way]["no_choice"]) for way in WAYS)])
    parts = [_choice_facts(found, run), markdown_table(["", *(f"by {way}" for way in WAYS)], rows)]
    if found["controls"]:
        parts.append(_control_table(found))
    for way in WAYS:
        cells = [
            [label, str(found["members"][label]["ecgs"]), str(e["ecgs"])]
            + [f"{e[key]:.3f}" for key in ("precision", "recall", "f1")]
            for label, e in found[way]["classes"].items()
        ]
        head = [f"by {way}", "ECGs in the split", "of this class only", "precision", "recall", "F1"]
        parts.append(markdown_table(head, cells))
    if "multi_label" in found:
        parts += _multi_label_section(found["multi_label"])
    return "\n\n".join(parts)


def _choice_facts(found: dict, run: dict) -> str:
    left_out = ", ".join(f"{number} {why}" for why, number in found["left_out"].items())
    majority = found["majority"]
    facts = f"{found['ecgs']} of the split's {found['split_ecgs']} ECGs are of exactly one of the classes (left out: {left_out}). "
    facts += f"Always answering with the most frequent class, {majority['class']}, is right in {score_cell(majority['accuracy'])}."
    if run["prompt"] == "ecg_lm":
        facts += " The prompt is that of ECG-LM (Yang et al. 2024): it holds age, sex and the abnormalities of each lead, which "
        facts += "rules have found, so that a model can choose without reading the ECG (compare with the ECG zeroed)."
    return facts


def _control_table(found: dict) -> str:
    scores = {"ecg": {way: found[way] for way in WAYS}} | found["controls"]
    rows = [
        [NAMES[condition], *(score_cell(ways[way][m]) for m in ("accuracy", "macro_f1") for way in WAYS)]
        for condition, ways in scores.items()
    ]
    majority = score_cell(found["majority"]["accuracy"])
    rows.append([f"most frequent class ({found['majority']['class']})", majority, majority, "—", "—"])
    head = ["", *(f"{metric}, by {way}" for metric in ("accuracy", "macro F1") for way in WAYS)]
    donors, text = found["donors"], markdown_table(head, rows)
    if "shuffled" in found["controls"]:
        text += f"\n\nAnother patient's ECG: of none of the same classes for {donors['other_classes']} ECGs; for "
        text += f"{donors['no_other_classes']} there was none."
    else:
        text += "\n\nAnother patient's ECG: not asked, since all ECGs are of one patient."
    return text


def _multi_label_section(conditions: dict) -> list[str]:
    first = conditions["ecg"]
    majority, ranked = first["majority"], first["auroc"]
    text = f"Several labels: all {ranked['ecgs']} ECGs, {first['ecgs_of_some_class']} of one or more of the classes. A choice is right "
    text += "if the ECG is of the chosen class; the AUROC of each class is by the probability of its letter, over all ECGs."
    rows = [
        [NAMES[name], *(score_cell(one[way]) for way in WAYS), score_cell(one["auroc"]["macro_auroc"])]
        for name, one in conditions.items()
    ]
    rows.append([f"most frequent class ({majority['class']})", *[score_cell(majority["accuracy"])] * 2, "0.500"])
    head = ["", *(f"right, by {way}" for way in WAYS), "mean AUROC"]
    return [text, markdown_table(head, rows), _auroc_table(ranked)]
