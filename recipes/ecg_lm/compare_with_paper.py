"""
Compares the scores of a run of ECG-LM's recipe with those of the paper (Yang et al. 2024, Health Data Science).

    python recipes/ecg_lm/compare_with_paper.py outputs/ecg_lm
"""

import json
import sys
from pathlib import Path

from elm_hf.evaluation.markdown import markdown_table, score_cell


ZERO_SHOT = {"diagnostic": 0.693, "rhythm": 0.670, "form": 0.698}  # accuracy
ECG_QA = {"single-verify": 0.758, "single-choose": 0.574, "single-query": 0.399}  # exact match
NOT_RUN = {"score": None}


def main(run: Path):
    zero_shot = json.loads((run / "aligned/report/zero_shot.json").read_text(encoding="utf-8"))
    evaluation = json.loads((run / "trained/report/report.json").read_text(encoding="utf-8"))
    rows = []
    for task, paper in ZERO_SHOT.items():
        found = zero_shot["tasks"].get(task, {})
        for way in ("letter", "likelihood"):
            entry = found[way]["accuracy"] if found else NOT_RUN
            rows.append([f"zero-shot, {task}, by {way}", f"{paper:.3f}", score_cell(entry)])
    for question_type, paper in ECG_QA.items():
        scores = evaluation["scores"].get(question_type)
        entry = scores["conditions"]["ecg"]["exact_match"] if scores else NOT_RUN
        rows.append([f"ECG-QA, {question_type}", f"{paper:.3f}", score_cell(entry)])
    asked = evaluation["run"]
    print(f"Questions of {asked['dataset']}, fold {asked['fold']}, {asked['split']}:\n")
    print(markdown_table(["", "paper", "this run"], rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
