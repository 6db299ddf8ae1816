"""
Compares the scores of a run of ECG-LM's recipe with those of the paper (Yang et al. 2024, Health Data Science), and says in
what the two differ.

    python recipes/ecg_lm/compare_with_paper.py outputs/ecg_lm
"""

import json
import sys
from pathlib import Path

from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.scoring.names import ZERO_SHOT_NAME
from elm_hf.utils.reports import REPORT_SCHEMA, read_report


ZERO_SHOT = {"diagnostic": 0.693, "rhythm": 0.670, "form": 0.698}  # accuracy
ECG_QA = {"single-verify": 0.758, "single-choose": 0.574, "single-query": 0.399}  # exact match
# Accuracy of the diagnostic task (Table 5), and the option of run.sh that leaves out the same part.
ABLATIONS = {
    "without pre-training of the encoder": (0.666, "--no-encoder-pretraining"),
    "LLaMA2-Chat instead of BioMedGPT-LM": (0.670, "LLM=meta-llama/Llama-2-7b-chat-hf"),
    "without data expansion": (0.655, "--no-data-expansion"),
}
# Folders of the zero-shot classifications, by prompt.
PROMPTS = {"the paper's prompt": "report_ecg_lm", "our prompt": "report"}
NOT_RUN = {"score": None}


def main(run: Path):
    evaluation = read_report(run / "trained/report")
    zero_shots = {prompt: _read_zero_shot(run / "aligned" / folder) for prompt, folder in PROMPTS.items()}
    asked = evaluation["run"]
    print(
        f"Zero-shot classification of ECGs of {asked['dataset']}, fold {asked['fold']}, {asked['split']}: accuracy.\n"
    )
    print(_zero_shot_table(zero_shots))
    print(f"\nIn what this differs from the paper:\n\n{_differences(zero_shots)}")
    print("\nAblations of the paper, accuracy of the diagnostic task:\n")
    rows = [[name, f"{accuracy:.3f}", option] for name, (accuracy, option) in ABLATIONS.items()]
    print(
        markdown_table(["", "paper", "here: run.sh with"], [["whole", f"{ZERO_SHOT['diagnostic']:.3f}", "—"], *rows])
    )
    print("\nQuestions of ECG-QA about one ECG, exact match:\n")
    rows = []
    for question_type, paper in ECG_QA.items():
        scores = evaluation["scores"].get(question_type)
        conditions = scores["conditions"] if scores else {}
        cells = [score_cell(conditions.get(name, {}).get("exact_match", NOT_RUN)) for name in ("ecg", "none", "blind")]
        rows.append([f"ECG-QA, {question_type}", f"{paper:.3f}", *cells])
    print(markdown_table(["", "paper", "this run", "no ECG", "blind majority"], rows))


def _read_zero_shot(folder: Path) -> dict:
    report = json.loads((folder / ZERO_SHOT_NAME).read_text(encoding="utf-8"))
    if report["run"].get("schema") != REPORT_SCHEMA:
        raise ValueError(f"{folder}: written by an earlier version of elm-hf; delete it and run run.sh again")
    return report["tasks"]


def _zero_shot_table(zero_shots: dict[str, dict]) -> str:
    rows = []
    for task, paper in ZERO_SHOT.items():
        for prompt, tasks in zero_shots.items():
            for way in ("letter", "likelihood"):
                found = tasks.get(task)
                cells = ["—"] * 5
                if found is not None:
                    entries = [
                        found[way],
                        *(found["controls"].get(name) for name in ("zeros", "shuffled", "permuted")),
                    ]
                    entries[1:] = [entry and entry[way] for entry in entries[1:]]
                    cells = [score_cell(entry["accuracy"] if entry else NOT_RUN) for entry in entries]
                    cells.append(f"{found['majority']['accuracy']['score']:.3f} ({found['majority']['class']})")
                rows.append([f"{task}, by {way}, {prompt}", f"{paper:.3f}", *cells])
    head = ["", "paper", "this run", "ECG zeroed", "another patient's", "letters permuted", "most frequent class"]
    return markdown_table(head, rows)


def _differences(zero_shots: dict[str, dict]) -> str:
    lines = [
        "Prompt: the paper's prompt is written after its Table 1 (person, ECG, abnormalities of each lead, question, options), in "
        "our words; ours is the ECG and a question. The abnormalities are found by rules, and a model can choose by them without "
        "reading the ECG: compare with the column of zeroed ECGs.",
        "ECGs: the paper does not say on which it tests, nor what it does with those of none or several of the classes. Here they "
        "are left out:",
    ]
    for task, found in zero_shots["our prompt"].items():
        left_out = ", ".join(f"{number} {why}" for why, number in found["left_out"].items())
        classes = ", ".join(
            f"{name} {those['ecgs']} → {those['of_this_class_only']}" for name, those in found["members"].items()
        )
        lines.append(
            f"  {task}: {found['ecgs']} of {found['split_ecgs']} ECGs are asked about ({left_out}); of each class {classes}."
        )
    lines += [
        "Classes: the paper names five options for each task and not the statements that they stand for; ours are the statements "
        "of PTB-XL's table with the same superclass or code.",
        "Patients: no phase of this run has seen the test patients of ECG-QA, which are not those of PTB-XL's fold 10.",
        "An accuracy says something only as far as it exceeds that of the most frequent class. On PTB-XL's fold 10 that reaches "
        "0.553 (diagnostic), 0.817 (rhythm, above the paper's 0.670) and 0.546 (form).",
    ]
    return "\n".join(line if line.startswith("  ") else f"- {line}" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
