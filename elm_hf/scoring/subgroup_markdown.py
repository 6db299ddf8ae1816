"""The section of `report.md` about subgroups; `report.json` has all groups."""

from elm_hf.scoring.markdown import markdown_table, p_cell, score_cell
from elm_hf.scoring.names import KIND_NAMES
from elm_hf.utils.reports import METRIC_NAMES


def subgroup_sections(report: dict) -> list[str]:
    """
    The section, as a list of paragraphs; empty without subgroups.

    Args:
        report: as in report.json.
    """
    subgroups = report["subgroups"]
    if subgroups is None or not any(kind["attributes"] for kind in subgroups["kinds"].values()):
        return []
    text = (
        "Score with the ECG, and signal reliance, of groups of patients and ECGs. Difference: the group minus the rest; p-values are "
        f"corrected for all {subgroups['comparisons']} of them (Holm 1979). Groups of fewer than {subgroups['least']} patients or answers "
        "are not scored. The table has the lowest and the highest group; `report.json` has all."
    )
    if subgroups["not_measured"]:
        text += f" Heart rate and noise were not measured, since there are {subgroups['not_measured']} ECGs."
    parts = ["## Subgroups", text]
    for kind, found in subgroups["kinds"].items():
        parts.append(f"**{found['sentence']}**")
        if len(subgroups["kinds"]) > 1:
            parts.append(f"{KIND_NAMES[kind]}:")
        parts.append(_table(found))
        suffix = f"_{kind}" if len(subgroups["kinds"]) > 1 else ""
        if path := report["figures"].get(f"subgroups{suffix}"):
            parts.append(f"![Score and signal reliance of each group]({path})")
        parts += _not_scored(found)
    return parts


def _table(found: dict) -> str:
    rows = []
    for attribute, one in found["attributes"].items():
        scored = {name: entry for name, entry in one["groups"].items() if "score" in entry}
        ordered = sorted(scored, key=lambda name: scored[name]["score"]["score"])
        for name in ordered[:1] + ordered[1:][-1:]:
            rows.append([attribute, name, *_cells(scored[name])])
    metric = METRIC_NAMES[found["metric"]]
    head = [
        "attribute",
        "group",
        "answers",
        "patients",
        metric,
        "difference",
        "p (Holm)",
        "signal reliance",
        "depends on the ECG",
    ]
    return markdown_table(head, rows, 2)


def _cells(entry: dict) -> list[str]:
    difference, reliance = entry.get("difference"), entry["reliance"]
    cells = [str(entry["answers"]), str(entry["patients"]), score_cell(entry["score"])]
    cells += ["—", "—"] if difference is None else [score_cell(difference), p_cell(difference["p_value_holm"])]
    is_read = {True: "yes", False: "no evidence", None: reliance.get("note", "—")}[reliance["reads_ecg"]]
    return [*cells, score_cell(reliance), is_read]


def _not_scored(found: dict) -> list[str]:
    small, left_out = [], []
    for attribute, one in found["attributes"].items():
        small += [
            f"{attribute} {name} ({entry['patients']} patients, {entry['answers']} answers)"
            for name, entry in one["groups"].items()
            if "score" not in entry
        ]
        left_out += [f"{attribute} {name} ({number} answers)" for name, number in one["left_out"].items()]
    lines = [f"Too small to be scored: {', '.join(small)}."] if small else []
    return lines + ([f"In no group: {', '.join(left_out)}."] if left_out else [])
