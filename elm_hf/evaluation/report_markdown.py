"""The report of an evaluation as Markdown."""

import json
from collections.abc import Container, Sequence

from elm_hf.scoring.markdown import markdown_table, p_cell, score_cell
from elm_hf.scoring.names import CONDITION_NAMES, KIND_NAMES, MEASUREMENT_CONDITIONS, MODALITY_CONDITIONS
from elm_hf.utils.reports import METRIC_NAMES, METRIC_OF_KIND


def report_table(report: dict, column: str = "scores") -> str:
    """
    The main scores as a Markdown table: a row per group of questions, a column per condition.

    Args:
        report: as in report.json.
        column: `"scores"` (question types and averages) or `"attribute_types"`.
    """
    conditions = list(report["conditions"])
    names = [CONDITION_NAMES.get(name, name) for name in conditions]
    head = ["question type" if column == "scores" else "attribute type", "answers", "patients", *names]
    rows = []
    for group, scores in report[column].items():
        metric = METRIC_OF_KIND[scores["kind"]]
        cells = [score_cell(scores["conditions"][name][metric], name == "ecg") for name in conditions]
        rows.append([group, str(scores["answers"]), str(scores["patients"]), *cells])
    return markdown_table(head, rows)


def reliance_sentences(report: dict) -> list[str]:
    """The result of the signal ablation: a sentence for each kind of answers."""
    return [reliance["sentence"] for reliance in report["signal_reliance"].values()]


def report_markdown(report: dict, probed: Sequence[str] = ()) -> str:
    """The text of `report.md`, with the sections `probed` about claims and counterfactual ECGs."""
    run = report["run"]
    sections = [
        f"# Evaluation of {run.get('checkpoint', 'a model')}",
        _summary(report),
        "\n\n".join(f"**{sentence}**" for sentence in reliance_sentences(report)),
        "## Scores\n\n" + _score_explanation(report) + "\n\n" + report_table(report),
        *_figure(report, "scores", "Scores by question type, with the ECG"),
        *_figure(report, "ablation", "Scores with and without the ECG"),
        *_modality_reliance(report),
        *_reliance_by_type(report),
        *_other_metrics(report),
        *_bert_scores_by_type(report),
        *_attribute_types(report),
        *_degradation_section(report),
        *_statement_section(report),
        *_judge_section(report),
        *_confusion_section(report),
        *probed,
        *_occlusion_section(report),
        *_example_section(report),
        "## How it was measured\n\n" + _method(report),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(report: dict) -> str:
    run = report["run"]
    place = f"{run.get('dataset', 'a dataset')}, fold {run.get('fold', '?')}, {run.get('split', '?')}"
    return f"{place}: {report['questions']} questions about the ECGs of {report['patients']} patients."


def _score_explanation(report: dict) -> str:
    kinds = {scores["kind"] for scores in report["scores"].values()}
    parts = []
    if "short" in kinds:
        parts.append(
            "Exact match: the answer names the true items and no others, in any order (ECG-QA, Oh et al. 2023)."
        )
    if "text" in kinds:
        parts.append("Free text: F1 of ROUGE-L (Lin 2004).")
    return " ".join([*parts, "In brackets the 95 % interval over patients. An empty answer is wrong."])


def _figure(report: dict, name: str, caption: str) -> list[str]:
    path = report["figures"].get(name)
    return [f"![{caption}]({path})"] if path else []


def _modality_reliance(report: dict) -> list[str]:
    changed = (
        "It reads what changes its answers when it is another patient's, while the other one stays; it needs what it answers worse "
        "without."
    )
    both = (
        f"This model reads the signal of an ECG and its picture. {changed} A model that was trained without --modality_dropout "
        "has not learned to do without one of them, and may answer worse for that reason alone."
    )
    measured = (
        f"This model reads measured values (measure_ecg) beside the ECG. {changed} Values that contradict the ECG, or are all "
        "unknown, were rare in training, so that it may answer worse for that reason alone."
    )
    parts = (
        ("Signal and picture", both, MODALITY_CONDITIONS),
        ("ECG and measured values", measured, MEASUREMENT_CONDITIONS),
    )
    head = ["question", "condition", "fall of the score", "p (Holm)", "answer"]
    tables = [(title, text, _rows_of_parts(report, conditions)) for title, text, conditions in parts]
    return [f"## {title}\n\n{text}\n\n{markdown_table(head, rows, 2)}" for title, text, rows in tables if rows]


def _rows_of_parts(report: dict, conditions: Container[str]) -> list[list[str]]:
    questions = {
        "other_signal": "Does it read the signal?",
        "picture_only": "Does it need the signal?",
        "other_picture": "Does it read the picture?",
        "signal_only": "Does it need the picture?",
        "other_measurements": "Does it read the measured values?",
        "no_measurements": "Does it need the measured values?",
        "measurements_only": "Does it read the ECG itself?",
    }
    rows = []
    for kind, found in report.get("modality_reliance", {}).items():  # reports of earlier versions have none
        for name, entry in found.items():
            if name not in conditions:
                continue
            cells = ["—", entry.get("note", "—")]
            if entry["p_value"] is not None:
                cells = [p_cell(entry["p_value_holm"]), "yes" if entry["reads_ecg"] else "no evidence"]
            suffix = f" ({KIND_NAMES[kind]})" if len(report["modality_reliance"]) > 1 else ""
            rows.append([questions[name] + suffix, CONDITION_NAMES[name], score_cell(entry), *cells])
    return rows


def _reliance_by_type(report: dict) -> list[str]:
    found = report["signal_reliance_by_type"]
    if len(found) < 2 or all(entry["score"] is None for entry in found.values()):
        return []
    rows = []
    for name, entry in found.items():
        cells = ["—", "—", entry.get("note", "—")]
        if entry["p_value"] is not None:
            p_values = (entry["p_value"], entry["p_value_holm"])
            cells = [*map(p_cell, p_values), "yes" if entry["reads_ecg"] else "no evidence"]
        rows.append([name, str(entry["answers"]), str(entry["patients"]), score_cell(entry), *cells])
    head = ["question type", "answers", "patients", "signal reliance", "p", "p (Holm)", "depends on the ECG"]
    text = "Score with the ECG minus the best score without it. The more types there are, the more of them seem to depend on "
    text += (
        "the ECG by chance, so the last column follows from p-values that are corrected for their number (Holm 1979)."
    )
    return [f"## Which question types depend on the ECG\n\n{text}\n\n{markdown_table(head, rows)}"]


def _other_metrics(report: dict) -> list[str]:
    sections = []
    for group, scores in report["scores"].items():
        if not group.startswith("all"):
            continue
        metrics = list(scores["conditions"]["ecg"]) if "ecg" in scores["conditions"] else []
        names = [CONDITION_NAMES.get(name, name) for name in report["conditions"]]
        rows = [
            [METRIC_NAMES[metric], str(scores["conditions"]["ecg"][metric]["answers"])]
            + [score_cell(scores["conditions"][name][metric], name == "ecg") for name in report["conditions"]]
            for metric in metrics
        ]
        note = ""
        if scores["kind"] == "text":
            names_of_long = "BLEU-4, METEOR and BERTScore" if report["bert_score"] else "BLEU-4 and METEOR"
            note = f"{names_of_long} are not reported for true answers of less than four words, and rest on the others.\n\n"
        sections.append(f"## Other metrics: {group}\n\n{note}{markdown_table(['metric', 'answers', *names], rows)}")
    return sections


def _bert_scores_by_type(report: dict) -> list[str]:
    rows = []
    for group, scores in report["scores"].items():
        entries = {name: metrics.get("bert_score") for name, metrics in scores["conditions"].items()}
        if not group.startswith("all") and all(entries.values()):  # averages have the main metric only
            cells = [score_cell(entry, name == "ecg") for name, entry in entries.items()]
            answers = next(iter(entries.values()))["answers"]
            rows.append([group, str(answers), str(scores["patients"]), *cells])
    if not rows:
        return []
    names = [CONDITION_NAMES.get(name, name) for name in report["conditions"]]
    return ["## BERTScore\n\n" + markdown_table(["question type", "answers", "patients", *names], rows)]


def _bert_score_line(report: dict) -> list[str]:
    used = report["bert_score"]
    if used is None or not used["pairs"]:
        return []
    return [
        f"BERTScore: F1 (Zhang et al. 2020) of layer {used['layer']} of {used['layers']} of {used['model']} (weights "
        f"{used['weights']}, transformers {used['transformers']}), without weights by frequency and not rescaled: texts that "
        f"have nothing to do with each other are far above 0. {used['pairs']} different pairs of texts; {used['cut']} texts "
        "were too long for the encoder and cut."
    ]


def _attribute_types(report: dict) -> list[str]:
    if not report["attribute_types"]:
        return []
    figure = _figure(report, "attribute_types", "Scores by attribute type, with the ECG")
    return ["## Attribute types\n\n" + report_table(report, "attribute_types"), *figure]


def _degradation_section(report: dict) -> list[str]:
    steps = report.get("picture_degradation")
    if not steps:
        return []
    text = "The same questions about pictures with the artefacts of scans and photographs: paper, handwriting, folds, perspective, "
    text += "lighting, noise, JPEG. Severity 0 is the drawn picture. Signal reliance compares with what stands in the "
    text += "ECG's place in pictures of the same severity."
    parts = ["## Pictures like scans\n\n" + text]
    for kind in steps[0]["kinds"]:
        parts.append(degradation_table(steps, kind))
    parts += _figure(report, "picture_degradation", "Scores against the severity of the artefacts")
    return [*parts, *_figure(report, "picture_degradation_steps", "One ECG at each severity")]


def degradation_table(steps: list[dict], kind: str) -> str:
    """The scores of one kind of answers at each step, of [`degradation_steps`], as a Markdown table."""
    rows = []
    for step in steps:
        entry = step["kinds"][kind]
        reliance, change = entry["reliance"], entry["change"]
        is_read = {True: "yes", False: "no evidence", None: reliance.get("note", "—")}[reliance["reads_ecg"]]
        scores = [score_cell(entry["score"]), "—" if change is None else score_cell(change)]
        rows.append([f"{step['severity']:g}", *scores, score_cell(reliance), is_read])
    head = ["severity", METRIC_NAMES[METRIC_OF_KIND[kind]], "change", "signal reliance", "depends on the ECG"]
    return markdown_table(head, rows)


def _statement_section(report: dict) -> list[str]:
    found = report["statements"]
    if not found:
        return []
    text = f"With the ECG, {found['missed_per_answer']:.2f} true statements were missed per answer and "
    text += f"{found['extra_per_answer']:.2f} made that are not true ({found['answers']} answers, without yes and no)."
    for key, verb in (("most_missed", "missed"), ("most_extra", "made without being true")):
        rows = [[row["statement"], str(row["number"]), str(row["true"])] for row in found[key]]
        if rows:
            text += "\n\n" + markdown_table(["statement", verb, "true answers with it"], rows)
    return ["## Statements\n\n" + text]


def _system_prompt_line(report: dict) -> list[str]:
    words = report["run"].get("system_prompt")
    return [] if words is None else [f"Prompts opened with {json.dumps(words, ensure_ascii=False)}."]


def _retrieval_line(report: dict) -> list[str]:
    options = report["run"].get("retrieval")
    if options is None:
        return []
    return [
        f"Prompts held the {options['content']} of {options['k']} similar ECGs of training patients ({options['index']}, in the "
        f"{options['location']}'s words): those of the true ECG under every condition, so that the signal reliance is what the "
        "model reads from the signal beyond them."
    ]


def _control_lines(report: dict) -> list[str]:
    lines = []
    donors = report["run"].get("donors")
    if donors is not None:
        lines.append(
            f"Another patient's ECG: for {donors['other_answer']} questions one with which the same question has another "
            f"true answer; for {donors['no_other_answer']} there was none, and any other patient's ECG was taken."
        )
    if "noise" in report["conditions"]:
        lines.append(
            "Noise: each of the eight independent leads with its own amplitude spectrum and random phases, the other limb "
            "leads computed from them. Rate and amplitude may still be read from it."
        )
    if "demographics" in report["conditions"]:
        lines.append("Age and sex only: the ECG is replaced by a sentence with the patient's age and sex.")
    return lines


def _judge_section(report: dict) -> list[str]:
    judge = report["run"].get("judge")
    if judge is None:
        return []
    agreement = judge["agreement"]
    kappa = "not defined" if agreement["kappa"] is None else f"{agreement['kappa']:.2f}"
    lines = [f"{judge['judged']} of {judge['answers']} answers with the ECG were judged by {judge['judge']}."]
    if judge["judged"]:
        lines += [
            f"Right: {judge['right']:.3f}; mean score {judge['mean_score']:.2f} of 2. Agreement with exact match: "
            f"{agreement['share']:.3f} (Cohen's kappa {kappa}); right for the judge only: "
            f"{agreement['right_for_the_judge_only']}, for exact match only: {agreement['exact_match_only']}."
        ]
    failed = ", ".join(f"{reason} {number}" for reason, number in judge["failed_requests"].items()) or "none"
    lines += [
        f"{judge['requests']} requests, {judge['prompt_tokens']} tokens read and {judge['completion_tokens']} written; failed "
        f"requests: {failed}; without a verdict: {judge['without_verdict']}, which count neither as right nor as wrong."
    ]
    return ["## Judge\n\n" + "\n\n".join(lines)]


def _confusion_section(report: dict) -> list[str]:
    pictures = [
        picture
        for name in report["confusion"]
        for picture in _figure(report, f"confusion_{name}", f"True and predicted answers, {name}")
    ]
    return ["## Confusion", *pictures] if pictures else []


def _occlusion_section(report: dict) -> list[str]:
    names = [name for name in report["figures"] if name.startswith(("occlusion_", "attention_"))]
    if not names:
        return []
    head = "## What the answers depend on\n\nA lead, or a stretch of time in all leads (rhythm strip), is hidden, and the "
    head += "probability of the model's own answer compared: the darker, the more the answer depends on it; where nothing is dark, on "
    head += "no single one."
    return [head, *(picture for name in names for picture in _figure(report, name, "Leads and times that matter"))]


def _example_section(report: dict) -> list[str]:
    parts = ["## Examples"] if report["examples"] else []
    for example in report["examples"]:
        lines = f"**{example['kind']}** (score {example['score']:.2f}): {example['question']}\n\n"
        lines += f"- true: {example['truth']}\n- predicted: {example['prediction'] or '(empty)'}"
        pictures = "".join(f"\n\n![{path}]({path})" for path in example["pictures"])
        parts.append(lines + pictures)
    return parts


def _method(report: dict) -> str:
    head = ["condition", "answers", "empty", "cut at their longest length"]
    rows = [
        [
            CONDITION_NAMES.get(name, name),
            str(count["answers"]),
            str(count["empty"]),
            str(count.get("unfinished", "—")),
        ]
        for name, count in report["conditions"].items()
    ]
    entries = [
        entry
        for groups in (report["scores"], report["attribute_types"])
        for scores in groups.values()
        for metrics in scores["conditions"].values()
        for entry in metrics.values()
    ]
    notes = dict.fromkeys(entry["note"] for entry in entries if "note" in entry)
    undefined = max((entry.get("undefined_resamples", 0) for entry in entries), default=0)
    libraries = ", ".join(f"{name} {number}" for name, number in report["libraries"].items())
    lines = [
        f"Intervals: Korn & Graubard, with the variance of {report['bootstrap']['resamples']} resamples of patients; a question "
        "about two patients counts as often as both were drawn.",
        *(
            [f"Scores of few patients are not defined in up to {undefined} resamples, which were left out."]
            * (undefined > 0)
        ),
        "Signal reliance: the score with the ECG minus the best score without it; its interval's lower end is the least of "
        "the lower ends of the differences to each of those conditions.",
        *_control_lines(report),
        "Blind majority: the most frequent answer to the question's template among the training patients.",
        *(f"{note[0].upper()}{note[1:]}." for note in [*report["notes"], *notes]),
        *_system_prompt_line(report),
        *_retrieval_line(report),
        *_bert_score_line(report),
        f"Libraries: {libraries}.",
    ]
    return markdown_table(head, rows) + "\n\n" + "\n".join(f"- {line}" for line in lines)
