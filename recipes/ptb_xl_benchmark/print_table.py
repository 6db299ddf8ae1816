"""
Prints the macro AUROC of encoders on PTB-XL beside that of Strodthoff et al. (2020, IEEE Journal of Biomedical and Health
Informatics 25:1519), and says in what they differ.

    python recipes/ptb_xl_benchmark/print_table.py outputs/ptb_xl_benchmark/classifier ...

The folders are those of elm-hf evaluate-encoder.
"""

import sys
from pathlib import Path

from elm_hf.classification.encoder_report import column_title, warnings_of
from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.utils.files import read_json
from elm_hf.utils.reports import REPORT_NAME, REPORT_SCHEMA


# Number of labels of each task.
LABELS = {"all": 71, "diagnostic": 44, "subclass": 23, "superclass": 5, "form": 19, "rhythm": 12}
# Macro AUROC in thousandths, and half the width of the 90 % interval.
PAPER = {
    "inception1d": ((925, 8), (931, 9), (930, 10), (921, 6), (899, 22), (953, 13)),
    "xresnet1d101": ((925, 7), (937, 8), (929, 14), (928, 5), (896, 12), (957, 19)),
    "resnet1d_wang": ((919, 8), (936, 8), (928, 10), (930, 5), (880, 15), (946, 10)),
    "fcn_wang": ((918, 8), (926, 10), (927, 11), (925, 6), (869, 12), (931, 8)),
    "lstm": ((907, 8), (927, 8), (928, 10), (927, 5), (851, 15), (953, 9)),
    "lstm_bidir": ((914, 8), (932, 7), (923, 12), (921, 6), (876, 15), (949, 11)),
    "wavelet + NN": ((849, 13), (855, 15), (859, 16), (874, 7), (757, 29), (890, 24)),
}
DIFFERENCES = """\
- Network: the paper trains a network for each task; one of ours learns the 71 statements, 23 subclasses and 5 superclasses at once.
- ECGs: 100 Hz in both. PTB-XL 1.0.3 has 38 recordings less than the paper's version, and we leave out those whose limb leads
  contradict each other.
- Windows: the paper combines the predictions of windows of 2.5 s; so does the row that says so, by their mean.
- Measured values: the row that says so is not of the network alone; the probe also reads rate, intervals, axis and amplitudes
  that elm-hf measures.
- Intervals: the paper's are of 90 %, from resampled ECGs; ours are of 95 %, from resampled patients.
- Selection: both train on folds 1 to 8 and select on fold 9. Fold 10 is used for the scores only."""


def main(folders: list[Path]) -> None:
    reports = [_read(folder) for folder in folders]
    run = reports[0]["run"]
    print(
        f"Macro AUROC on {run['dataset']}, fold {run['fold']}, {run['split']}; {reports[0]['patients']:,} patients.\n"
    )
    rows = [
        [f"{name} (paper)", *(f"{score / 1000:.3f} ± {half / 1000:.3f}" for score, half in each)]
        for name, each in PAPER.items()
    ]
    rows.append(["**best of the paper**", *(f"{max(column)[0] / 1000:.3f}" for column in zip(*PAPER.values()))])
    are_several = len({report["run"]["checkpoint"] for report in reports}) > 1
    for report in reports:
        encoder = report["run"]["encoder"] + (f" {Path(report['run']['checkpoint']).name}" if are_several else "")
        for result in report["results"]:
            cells = [_cell(result["tasks"].get(task), number) for task, number in LABELS.items()]
            rows.append([f"{encoder}, {column_title(result)}", *cells])
    print(markdown_table(["", *(f"{task} ({number})" for task, number in LABELS.items())], rows))
    for sentence in dict.fromkeys(sentence for report in reports for sentence in warnings_of(report)):
        print(f"\n{sentence}")
    print(f"\nIn what ours differ from the paper's:\n\n{DIFFERENCES}")
    if any(len(found["classes"]) != LABELS.get(task) for task, found in reports[0]["results"][0]["tasks"].items()):
        print("- Labels: these records do not have PTB-XL's, so that the scores are not comparable.")


def _cell(found: dict | None, number: int) -> str:
    """The score of a task with `number` labels; where it has others, with their number."""
    if found is None:
        return "—"
    labels = len(found["classes"])
    return score_cell(found["macro_auroc"]) + ("" if labels == number else f" ({labels} labels)")


def _read(folder: Path) -> dict:
    report = read_json(folder / REPORT_NAME)
    if report.get("run", {}).get("schema") != REPORT_SCHEMA or "results" not in report:
        raise ValueError(f"{folder}: not the report of elm-hf evaluate-encoder, or one of another version of elm-hf")
    return report


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
