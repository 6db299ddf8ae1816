"""An evaluation's results in the card of the encoder that was evaluated."""

import re
from os import PathLike
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from elm_hf.checkpoints.card import eval_result
from elm_hf.checkpoints.encoder_card import trained_encoder_card
from elm_hf.classification.encoder_report import column_title, encoder_table, warnings_of
from elm_hf.data.layout import fold_config
from elm_hf.utils.reports import public_name


HEADING = "## Evaluation"


def check_encoder_card(checkpoint: str | PathLike) -> None:
    """
    Checks before an evaluation that its results can be written into the card.

    Raises:
        ValueError: the checkpoint is not a folder, or its card was not written by elm-hf.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise ValueError(f"{checkpoint}: results are written into the card of a folder; give the local folder")
    readme = folder / "README.md"
    if readme.is_file() and "elm-hf" not in (ModelCard.load(readme).data.tags or []):
        raise ValueError(f"{readme}: not a card of elm-hf; move it away, and a new card is written")


def update_encoder_card(checkpoint: str | PathLike, report: dict) -> None:
    """
    Writes the results of an evaluation into the card (`README.md`) of an encoder: as the Hub shows them (`model-index`), and
    as a section of the text. They replace those of the same kind on the same dataset, fold and split; others stay. A
    checkpoint without a card gets one.

    Args:
        checkpoint: folder of the encoder.
        report: of [`evaluate_encoder`].

    Raises:
        ValueError: as in [`check_encoder_card`].
    """
    check_encoder_card(checkpoint)
    folder = Path(checkpoint)
    readme = folder / "README.md"
    card = ModelCard.load(readme) if readme.is_file() else trained_encoder_card(folder, folder.resolve().name)
    results = _results(report)
    new = {_what(result) for result in results}
    card.data.model_name = card.data.model_name or folder.resolve().name
    card.data.eval_results = [r for r in card.data.eval_results or [] if _what(r) not in new] + results
    card.text = with_section(card.text, *_section(report))
    card.save(readme)


def with_section(text: str, title: str, body: str) -> str:
    """The text of a card with a section under `## Evaluation`, in the place of the one with the same title."""
    before, found, rest = text.partition(f"\n{HEADING}\n")
    sections, after = {}, ""
    if found:
        end = re.search(r"^## ", rest, re.MULTILINE)
        inside, after = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
        for each in inside.split("\n### ")[1:]:
            name, _, content = each.partition("\n")
            sections[name] = content.strip()
    sections[title] = body
    parts = [f"### {name}\n\n{content}" for name, content in sections.items()]
    return "\n\n".join([before.rstrip(), HEADING, *parts]) + "\n" + (f"\n{after}" if after else "")


def _section(report: dict) -> tuple[str, str]:
    run = report["run"]
    way = column_title(report["results"][0])
    if run["way"] == "linear_probe":
        measured = " with measured values" if run.get("measurements") else ""
        way = f"Linear probe of the frozen encoder{measured}"
    way = way[0].upper() + way[1:]
    title = f"{way}: {public_name(run['dataset'])}, `{fold_config(run['fold'])}`, {run['split']}"
    text = (
        f"{report['ecgs']:,} ECGs of {report['patients']:,} patients. Macro AUROC; brackets are 95 % confidence intervals over "
        "patients."
    )
    return title, "\n\n".join([text, encoder_table(report), *warnings_of(report)])


def _results(report: dict) -> list[EvalResult]:
    """Entries of the `model-index`: the macro AUROC of each task."""
    found = [
        eval_result(
            report["run"],
            "other",
            "Multi-label classification of ECGs",
            "roc_auc",
            f"Macro AUROC, {task} ({column_title(result)})",
            scores["macro_auroc"],
        )
        for result in report["results"]
        for task, scores in result["tasks"].items()
    ]
    return [result for result in found if result is not None]


def _what(result: EvalResult) -> tuple:
    return result.dataset_type, result.dataset_config, result.dataset_split, result.metric_name
