"""
Prints the scores of models that were trained with and without ECGs, each asked with and without.

    python recipes/ecg_conditions/print_matrix.py outputs/ecg_conditions
"""

import sys
from pathlib import Path

from elm_hf.comparison.compare import compare
from elm_hf.scoring.markdown import markdown_table, p_cell, score_cell
from elm_hf.utils.reports import METRIC_NAMES, METRIC_OF_KIND, read_report


# How a model was trained (`--ecg_condition`), and the condition of `elm-hf evaluate` that is the same.
CONDITIONS = {"signal": "ecg", "zeros": "zeros", "none": "none"}
NAMES = {"signal": "ECG", "zeros": "zeros", "none": "text only"}


def main(out: Path):
    reports = {trained: read_report(out / trained / "report") for trained in CONDITIONS}
    run = reports["signal"]["run"]
    for trained, report in reports.items():
        if report["run"]["questions"] != run["questions"]:
            raise ValueError(f"{out / trained}: evaluated on other questions than {out / 'signal'}; evaluate it again")
    print(
        f"Questions of {run['dataset']}, fold {run['fold']}, {run['split']}; in brackets 95 % intervals over patients."
    )
    for group, scores in reports["signal"]["scores"].items():
        if not group.startswith(("all", "macro-average")):
            continue
        metric = METRIC_OF_KIND[scores["kind"]]
        head = [f"{METRIC_NAMES[metric]}, {group}", *(f"asked with {name}" for name in NAMES.values())]
        rows = [
            [f"trained with {NAMES[trained]}"]
            + [
                score_cell(reports[trained]["scores"][group]["conditions"][asked][metric])
                for asked in CONDITIONS.values()
            ]
            for trained in CONDITIONS
        ]
        print(f"\n{markdown_table(head, rows)}")
    print("\nTraining and asking with ECGs, minus training and asking without:\n")
    rows = []
    for other in ("zeros", "none"):
        folders = (out / other / "report", out / "signal" / "report")
        for group, found in compare(*folders, conditions=(CONDITIONS[other], "ecg"))["scores"].items():
            if not group.startswith(("all", "macro-average")):
                continue
            interval, p_value = found.get("note", "—"), "—"
            if found["low"] is not None:
                interval, p_value = f"[{found['low']:+.3f}, {found['high']:+.3f}]", p_cell(found["p_value"])
            rows.append([f"{group}, minus {NAMES[other]}", f"{found['difference']:+.3f}", interval, p_value])
    print(markdown_table(["", "difference", "95 % interval", "p"], rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
