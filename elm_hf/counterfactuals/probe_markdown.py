"""The results of the counterfactual probe as Markdown: `probe.md`, and a section of `report.md`."""

from elm_hf.counterfactuals.probe_results import agrees_with_clinic, limit_summary, limit_text, number
from elm_hf.counterfactuals.probe_shares import share_text
from elm_hf.counterfactuals.probe_stretches import fall_cells
from elm_hf.ecg.beat_stretches import STRETCHES
from elm_hf.scoring.markdown import markdown_table


def probe_markdown(results: dict) -> str:
    """The text of `probe.md`."""
    run = results["run"]
    head = f"# Counterfactual ECGs: {run['checkpoint']}"
    return "\n\n".join([head, *probe_sections(results, "##")]) + "\n"


def probe_sections(results: dict, level: str = "###") -> list[str]:
    """
    The parts of the text.

    Args:
        results: as in `probe.json`.
        level: marks of a heading.
    """
    run = results["run"]
    asked = "those of simulated datasets" if run["dataset"] is None else f"those of {run['dataset']}"
    intro = (
        f"Simulated ECGs of {run['patients']} patients that differ in one thing. Questions: {asked}. An answer is the most "
        "probable one of the answers that the question has. In brackets 95 % intervals over patients."
    )
    # Reports of earlier versions have neither a summary nor stretches.
    sections = [intro, "**" + " ".join(results.get("summary") or [limit_summary(results["curves"])]) + "**"]
    if results.get("figure"):
        sections.append(f"![Share of answers against each measurement]({results['figure']})")
    sections += [
        f"{level} Learned limits\n\n"
        "Where the finding is said to be there as often as not, and the distance from 25 % to 75 %.\n\n"
        + _limits(results["curves"]),
        f"{level} When only what must matter changes\n\n"
        "Two ECGs of a patient, one with the finding and one without: how often both answers are right. Constant answers give "
        "0, tossing a coin 0.25.\n\n" + _changed(results["changed"]),
        f"{level} When only what must not matter changes\n\n"
        "How many of the right answers stay right, and how many of all answers stay the same.\n\n"
        + _unchanged(results["unchanged"]),
    ]
    if results["exchange"]:
        sections.append(
            f"{level} Which leads are read\n\n"
            "Limb leads of one patient with the chest leads of another, one of whom has the finding.\n\n"
            + _exchange(results["exchange"])
        )
    if results.get("stretches"):
        sections.append(
            f"{level} Which stretch of the beat is read\n\n"
            "Of ECGs with the finding, one stretch of every beat is exchanged for that of a heart without it, of another "
            "patient's shape, that beats at the same times: how much the probability of saying that the finding is there falls. Bold "
            "is where the finding is. Last column: of the answers that find it, the share of which the fall is largest there.\n\n"
            + _stretches(results["stretches"]["cases"])
        )
        if results.get("stretch_figure"):
            sections.append(f"![Fall of the probability by exchanged stretch]({results['stretch_figure']})")
    if results["rhythm"]:
        sections.append(f"{level} What is called atrial fibrillation\n\n" + _rhythm(results["rhythm"]))
    if results["territory"]:
        sections.append(
            f"{level} Where ST elevation is seen\n\n"
            "Share of the answers that say that there is elevation in the territory asked about.\n\n"
            + _territory(results["territory"])
        )
    if results["records"]:
        sections += [f"{level} Recorded ECGs", *_records(results["records"], run["ecgs"])]
    if results["not_asked"]:
        sections.append(f"Not asked, because the questions do not name them: {', '.join(results['not_asked'])}.")
    return sections


def _records(records: dict, ecgs: str) -> list[str]:
    left_out = {name: number for name, number in records.get("left_out", {}).items() if number}
    text = (
        f"Normal ECGs of {records['patients']} patients ({ecgs}): scaled to each voltage; with the ST segment raised to each level; "
        "at other rates, between T and P; without P waves, with simulated f waves and with irregular beats; with the arm "
        "electrodes exchanged. Each changed ECG is measured."
    )
    if left_out:
        names = ", ".join(f"{name}: {number}" for name, number in left_out.items())
        text += f" ECGs left out, because more or less changed than should: {names}."
    sections = [text]
    if records["curves"]:
        sections.append(_limits(records["curves"]))
    if records["changed"]:
        sections.append(_changed(records["changed"]))
    if records.get("rhythm"):
        sections.append(_rhythm(records["rhythm"]))
    return sections


def _limits(curves: list[dict]) -> str:
    head = ["finding", "question", "result", "clinical limit", "learned limit", "25 % to 75 %"]
    rows = []
    for curve in curves:
        unit, result, limit, width = curve["unit"], curve["sentence"], "—", "—"
        if curve["low"] is None and curve["limit"] is not None:
            limit = limit_text(curve)
        elif curve["limit"] is not None:
            result = (
                "agrees with the clinical limit" if agrees_with_clinic(curve) else "differs from the clinical limit"
            )
            limit, width = limit_text(curve), f"{number(curve['width'], unit)} {unit}"
        clinical = f"{number(curve['clinical_limit'], unit)} {unit}"
        rows.append([curve["finding"], curve["question"], result, clinical, limit, width])
    return markdown_table(head, rows, 3)


def _changed(pairs: list[dict]) -> str:
    rows = [
        [
            pair["finding"],
            pair["pair"],
            pair["question"],
            str(pair["both_right"]["answers"]),
            share_text(pair["both_right"]),
        ]
        for pair in pairs
    ]
    return markdown_table(["finding", "what differs", "question", "pairs", "both right"], rows, 3)


def _unchanged(changes: list[dict]) -> str:
    rows = [
        [
            one["change"],
            str(one["stays_right"]["answers"]),
            share_text(one["stays_right"]),
            str(one["same_answer"]["answers"]),
            share_text(one["same_answer"]),
        ]
        for one in changes
    ]
    return markdown_table(["change", "right answers", "stay right", "all answers", "stay the same"], rows)


def _exchange(cases: list[dict]) -> str:
    rows = [
        [
            case["finding"],
            case["question"],
            case["leads"],
            share_text(case["follows_its_leads"]),
            share_text(case["follows_other_leads"]),
        ]
        for case in cases
    ]
    head = ["finding", "question", "shown in", "answer follows these leads", "follows the other leads"]
    return markdown_table(head, rows, 3)


def _stretches(cases: list[dict]) -> str:
    rows = [[case["finding"], case["question"], *fall_cells(case), share_text(case["agreement"])] for case in cases]
    return markdown_table(["finding", "question", *STRETCHES, "largest where the finding is"], rows, 2)


def _rhythm(cases: list[dict]) -> str:
    truths = {True: "yes", False: "no", None: "uncertain"}
    rows = [
        [
            case["atrial_waves"],
            "irregular" if case["irregular"] else "regular",
            case["question"],
            truths[case["truth"]],
            share_text(case["fibrillation"]),
        ]
        for case in cases
    ]
    head = ["atrial waves", "rhythm", "question", "atrial fibrillation", "answers that say so"]
    return markdown_table(head, rows, 4)


def _territory(cases: list[dict]) -> str:
    shown = list(dict.fromkeys(case["shown"] for case in cases))
    shares = {(case["asked"], case["question"], case["shown"]): share_text(case["says_so"]) for case in cases}
    rows = [
        [finding, question, *(shares[finding, question, territory] for territory in shown)]
        for finding, question in dict.fromkeys((case["asked"], case["question"]) for case in cases)
    ]
    return markdown_table(["asked", "question", *(f"shown: {territory}" for territory in shown)], rows, 2)
