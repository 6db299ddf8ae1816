"""The section of `report.md` about a model at an endpoint: what it was sent, what it cost, and its refusals."""

from elm_hf.scoring.markdown import markdown_table
from elm_hf.scoring.names import CONDITION_NAMES


INPUT_WORDS = {
    "picture": "the ECG drawn on paper, a PNG file of {pixels_per_mm} pixels per mm",
    "measurements": "the values that measure_ecg finds, as text",
}


def endpoint_sections(report: dict) -> list[str]:
    """The section, as a list of paragraphs; empty for a checkpoint."""
    used = report["run"].get("endpoint")
    if used is None:
        return []
    sent = f"In the place of an ECG it was sent {INPUT_WORDS[used['input']].format(**used)}."
    if used["answer_options"]:
        sent += " Questions with short answers named the answers that training questions of the same template have."
    if not used["greedy"]:
        sent += " The endpoint does not accept a temperature of 0: asked again, it may answer otherwise."
    name = used["url"] if used["model"] is None else f"{used['model']} at {used['url']}"
    head = ["condition", "answers", "declared refusals", "no candidate"]
    rows = [
        [CONDITION_NAMES[condition], *(str(counts[key]) for key in ("answers", "declared", "no_candidate"))]
        for condition, counts in used["refusals"].items()
    ]
    rule = (
        "Refusals: those that the endpoint declares (`refusal`, or a content filter), and short answers without a candidate, "
        "which contain none of the answers that questions of the same template have in the training and the evaluated split. "
        "They count as wrong."
    )
    return [
        "## Endpoint",
        f"Answers of {name}. {sent}",
        cost_sentence(used),
        f"{rule}\n\n{markdown_table(head, rows)}",
    ]


def cost_sentence(used: dict) -> str:
    """Requests, tokens and costs, of `run.endpoint` in `report.json`."""
    failed = ", ".join(f"{reason} {number}" for reason, number in used["failed_requests"].items()) or "none"
    text = f"{used['requests']} requests, {used['prompt_tokens']} tokens read and {used['completion_tokens']} written"
    if used["cost"] is not None:
        prompt, completion = used["price_per_million"]
        text += f", {used['cost']:.2f} at {prompt:g} and {completion:g} per million"
    if used["without_usage"]:
        text += f"; {used['without_usage']} replies did not say how many tokens"
    return f"{text}; failed requests: {failed}."
