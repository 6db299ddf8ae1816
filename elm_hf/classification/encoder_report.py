"""The report of an encoder's evaluation as Markdown."""

from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.utils.encoder_origin import known_sources_message


def encoder_table(report: dict) -> str:
    """The macro AUROC of each task as Markdown: a column for the classifier, or for each share of a linear probe."""
    results = report["results"]
    rows = []
    for task, found in results[0]["tasks"].items():
        cells = [score_cell(result["tasks"][task]["macro_auroc"]) for result in results]
        rows.append([task, f"{found['judged']} of {len(found['classes'])}", f"{found['ecgs']:,}", *cells])
    return markdown_table(["task", "labels", "ECGs", *map(column_title, results)], rows)


def column_title(result: dict) -> str:
    """What a result is of: the classifier, or the linear probe of a share of the labels."""
    if "label_share" not in result:
        seconds = result.get("window_seconds")
        return "classifier" if seconds is None else f"classifier, windows of {seconds:g} s"
    measured = f" and {result['measured_values']} measured values" if result.get("measured_values") else ""
    return f"linear probe{measured}, {100 * result['label_share']:g} % of labels"


def warnings_of(report: dict) -> list[str]:
    """What a reader of the scores must know: patients that were seen, and sources that the encoder was trained on."""
    run = report["run"]
    seen, known = run["seen_patients"]["sentence"], run["encoder_trained_on"]
    found = ([seen] if seen else []) + ([known_sources_message(known)] if known else [])
    return [f"{text[0].upper()}{text[1:]}." for text in found]


def encoder_markdown(report: dict) -> str:
    """The text of `report.md`."""
    run = report["run"]
    parts = [
        f"# Evaluation of {run['checkpoint']}",
        f"{run['dataset']}, fold {run['fold']}, {run['split']}: {report['ecgs']:,} ECGs of {report['patients']:,} "
        f"patients. {run['encoder']}, {run['parameters']:,} parameters. {_left_out(run)}".strip(),
        *(f"**{text}**" for text in warnings_of(report)),
        "## Macro AUROC\n\n" + encoder_table(report),
        *_probe_sections(report["results"]),
        "## AUROC of each label\n\n" + _label_tables(report["results"]),
        "## How it was measured\n\n" + _method(report),
    ]
    return "\n\n".join(parts) + "\n"


def _left_out(run: dict) -> str:
    number = run["left_out"]["lacks a lead"]
    return (
        f"{number} records of the dataset lack a lead, which the encoder needs; they are left out." if number else ""
    )


def _probe_sections(results: list[dict]) -> list[str]:
    if "label_share" not in results[0]:
        return []
    rows = []
    for result in results:
        strengths = [f"{found['strength']:g}" for found in result["tasks"].values()]
        numbers = [
            f"{result['training_patients']:,}",
            f"{result['training_ecgs']:,}",
            str(result["unlearned_classes"]),
        ]
        rows.append([f"{100 * result['label_share']:g} %", *numbers, *strengths])
    tasks = results[0]["tasks"]
    head = ["labels of", "patients", "ECGs", "classes without an ECG", *(f"strength, {task}" for task in tasks)]
    return ["## What the probes were fitted on\n\n" + markdown_table(head, rows)]


def _label_tables(results: list[dict]) -> str:
    parts = []
    for task, found in results[0]["tasks"].items():
        rows = [
            [name, str(entry["ecgs"]), *(score_cell(result["tasks"][task]["classes"][name]) for result in results)]
            for name, entry in found["classes"].items()
        ]
        parts.append(f"### {task}\n\n" + markdown_table(["label", "ECGs", *map(column_title, results)], rows))
    return "\n\n".join(parts)


def _method(report: dict) -> str:
    run = report["run"]
    text = (
        "A task is about the ECGs that have at least one of its labels. Its score is the mean of the areas under the ROC "
        "curve of its labels (macro AUROC), of which all ECGs or none are left out. Brackets are 95 % confidence intervals "
        f"from resampled patients (seed {run['seed']}); in a resample, labels of which it has no ECG are left out."
    )
    if run["way"] == "linear_probe":
        text += (
            " The encoder is frozen. Its pooled outputs are standardised, and a logistic regression is fitted to each label; "
            "the strength of its L2 penalty is chosen for each task by the macro AUROC on the validation patients. The "
            "patients of a smaller share are among those of a larger one. A label of which the training patients have no ECG "
            "cannot be learned, and its AUROC is 0.5."
        )
    if run.get("measurements"):
        text += (
            f" The probes also read {len(run['measurements'])} measured values of the whole record (measure_ecg): of each, by "
            f"how much it is above the typical value and by how much below, and whether it is unknown; of the axis, cosine and "
            f"sine. They are {', '.join(run['measurements'])}."
        )
    if run.get("window_seconds") is not None:
        text += (
            f" The classifier reads windows of {run['window_seconds']:g} s, each overlapping half of the next one, and their "
            "probabilities are averaged."
        )
    scored = {name for found in report["results"][0]["tasks"].values() for name in found["classes"]}
    if run["way"] == "classifier" and report["results"][0]["classes"] < len(scored):
        text += (
            f" The encoder classifies {report['results'][0]['classes']} statements. A superclass or subclass is scored by its "
            "likeliest statement; the AUROC of a statement that is not among them is 0.5."
        )
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return f"{text}\n\n{versions}; {run['seconds']:g} s; weights {run['weights']}."
