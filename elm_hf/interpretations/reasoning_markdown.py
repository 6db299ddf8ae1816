"""The section of `report.md` about stepwise reasoning (ECG-Reasoning-Benchmark)."""

from elm_hf.data.reasoning_steps import RELEASE, STEP_TYPES
from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.scoring.names import CONDITION_NAMES


HISTORY_NAMES = {"ground_truth": "true answers", "own": "own answers"}
MAIN_FIGURES = {
    "initial_accuracy": "initial diagnosis",
    "completion": "completion",
    "depth": "depth (of 4)",
    "diagnosis_accuracy": "final decision",
    "no_option": "no option named",
}


def reasoning_sections(found: dict | None) -> list[str]:
    """
    The section, as a list of paragraphs; empty without steps.

    Args:
        found: `reasoning` of `report.json`.
    """
    if found is None:
        return []
    return [
        "## Reasoning step by step",
        "\n\n".join(f"**{sentence}**" for sentence in reasoning_sentences(found)),
        _explanation(found),
        _figures_table(found, list(MAIN_FIGURES), MAIN_FIGURES.get),
        "Share of right answers, by step:",
        _figures_table(found, list(STEP_TYPES[1:]), lambda name: name.replace("_", " ")),
        "With the ECG, by diagnosis and by label (in brackets behind a diagnosis: samples with it):",
        _groups_table(found),
        _comparison(found),
    ]


def reasoning_sentences(found: dict) -> list[str]:
    """Completion and depth in a sentence for each history."""
    sentences = []
    for history, name in HISTORY_NAMES.items():
        if "ecg" not in found["histories"][history]:
            continue
        figures, reliance = found["histories"][history]["ecg"], found["reliance"][history]["completion"]
        verdict = {True: "beyond what it completes without it", False: "no evidence that this depends on the ECG"}
        settled = verdict.get(reliance["reads_ecg"], "whether this depends on the ECG was not settled")
        sentences.append(
            f"Behind the {name} to earlier steps, this model completes {figures['completion']['score']:.3f} of the reasoning with "
            f"the ECG ({settled}), at chance {found['chance']['completion']:.3f}."
        )
    return sentences


def _explanation(found: dict) -> str:
    return (
        f"{found['samples']} samples about {found['patients']} patients ({found['present']} with the diagnosis), {found['steps']} "
        "questions. Every question is asked behind the true answers to the earlier ones, and again behind the model's own answers. "
        "Initial diagnosis: the question before any reasoning. Completion: all later questions of a sample are right. Depth: how far "
        "the steps of one criterion are right before the first error, of 4 (criterion, finding, grounding, decision), where there are "
        "grounding questions. Final decision: the last question is right; behind the true answers this is the diagnosis from a given "
        "reasoning. An answer that names no option is wrong. In brackets the 95 % interval over patients."
    )


def _figures_table(found: dict, names: list[str], title) -> str:
    rows = [
        [HISTORY_NAMES[history], CONDITION_NAMES.get(condition, condition)]
        + [score_cell(figures[name], condition == "ecg") for name in names]
        for history, by_condition in found["histories"].items()
        for condition, figures in by_condition.items()
    ]
    chance = [found["chance"][name] for name in names]
    rows.append(["—", "options at random", *("—" if value is None else f"{value:.3f}" for value in chance)])
    return markdown_table(["history", "condition", *map(title, names)], rows, 2)


def _groups_table(found: dict) -> str:
    names = ["initial_accuracy", "completion", "depth", "diagnosis_accuracy"]
    groups = {
        f"{name.replace('_', ' ')} ({group['present']}){' †' if group['void_before'] else ''}": group
        for name, group in found["diagnoses"].items()
    }
    groups |= {f"diagnosis {name}": group for name, group in found["labels"].items()}
    rows = []
    for title, group in groups.items():
        true, own = (group["histories"][history].get("ecg") for history in HISTORY_NAMES)
        if true is None:
            continue
        cells = [score_cell(true[name]) for name in names] + [score_cell(own["completion"])]
        rows.append([title, str(group["samples"]), str(group["patients"]), *cells])
    head = [MAIN_FIGURES[name] for name in names]
    return markdown_table(["group", "samples", "patients", *head, "completion, own answers"], rows)


def _comparison(found: dict) -> str:
    text = (
        "Published figures of this benchmark are those behind the true answers, with the ECG, of all samples (split `official`), with the "
        "authors' prompts and their rules for reading an answer. Prompts and rules are others here, and the figures of a fold are those of "
        "its patients only. Those behind the model's own answers are not published for other models."
    )
    if any(group["void_before"] for group in found["diagnoses"].values()):
        text += f" † Results from samples before release {RELEASE} are void."
    return text
