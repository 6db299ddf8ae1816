"""Sections of a model card that are written after the others: counterfactual ECGs, and results that a new card keeps."""

import re
from collections.abc import Collection
from os import PathLike
from pathlib import Path

from huggingface_hub import ModelCard

from elm_hf.checkpoints.card import model_card, read_training


EVALUATION, COUNTERFACTUALS = "## Evaluation", "## Counterfactual ECGs"
# The line after the last section of `CARD_TEMPLATE`.
_LAST_LINE = "Made with elm-hf"
# The figure of the counterfactual ECGs in a checkpoint.
CARD_FIGURE = "figures/probe_curves.png"


def section_of(text: str, heading: str) -> str | None:
    """The section with a heading, up to the next one; None if the card has none, or is not one of ours."""
    found = re.search(rf"^{re.escape(heading)}\n.*?(?=^## |^{_LAST_LINE})", text, re.DOTALL | re.MULTILINE)
    return found and found[0]


def with_section(text: str, section: str) -> str:
    """
    The text of a card with a section in the place of the one with the same heading, or as its last section.

    Args:
        text: of the card.
        section: the section, its heading in the first line.
    """
    section = section.rstrip("\n") + "\n\n"
    earlier = section_of(text, section.partition("\n")[0])
    if earlier is not None:
        return text.replace(earlier, section)
    before, line, after = text.rpartition(_LAST_LINE)
    return before + section + line + after if line else text.rstrip("\n") + "\n\n" + section


def counterfactual_section(probe: dict) -> str:
    """
    The section about what a model's answers follow (`elm-hf probe`).

    Args:
        probe: the content of `probe.json`; its figure is `CARD_FIGURE`.
    """
    run = probe["run"]
    asked = "the questions of simulated datasets" if run["dataset"] is None else f"the questions of {run['dataset']}"
    paragraphs = [
        COUNTERFACTUALS,
        f"Simulated ECGs of {run['patients']} patients that differ in one thing, and {asked}; brackets are 95 % confidence intervals "
        "over patients.",
        # Probes of earlier versions have no summary.
        *probe.get("summary", ()),
    ]
    if probe.get("figure"):
        paragraphs.append(
            f"![Share of the answers that say that a finding is there, against each measurement]({CARD_FIGURE})"
        )
    return "\n\n".join(paragraphs) + "\n"


def keep_sections(card: ModelCard, readme: Path, headings: Collection[str]) -> None:
    """Puts sections of an earlier card into a new one, where the earlier one has them."""
    earlier = ModelCard.load(readme).text if readme.is_file() else ""
    for heading in headings:
        section = section_of(earlier, heading)
        if section is not None:
            card.text = with_section(card.text, section)


def published_card(
    folder: Path, repo_id: str, reports: list[dict], base: str | None = None, license: str | None = None
) -> ModelCard:
    """
    The card of a checkpoint with the results of evaluations. What there is no report about is kept from the folder's card.

    Args:
        folder: folder of the checkpoint.
        repo_id: repository that the usage example loads.
        reports: of `elm-hf evaluate`.
        base, license: as in [`model_card`].
    """
    card = model_card(folder, repo_id, read_training(folder), reports, base, license)
    probed = [report["probe"] for report in reports if report.get("probe")]
    keep_sections(card, folder / "README.md", [EVALUATION] * (not reports) + [COUNTERFACTUALS] * (not probed))
    if probed:
        card.text = with_section(card.text, counterfactual_section(probed[0]))
    return card


def report_figures(paths: Collection[str | PathLike], reports: list[dict]) -> dict[str, Path]:
    """
    The figure of the counterfactual ECGs that [`published_card`] refers to, by its path in the repository.

    Args:
        paths: of the reports, or of their folders.
        reports: their contents.

    Raises:
        FileNotFoundError: the figure that a report names does not exist.
    """
    for path, report in zip(map(Path, paths), reports):
        if report.get("probe"):
            if not report["probe"].get("figure"):
                return {}
            file = (path if path.is_dir() else path.parent) / report["probe"]["figure"]
            if not file.is_file():
                raise FileNotFoundError(f"{file}: the figure that {path} names is not there; evaluate the model again")
            return {CARD_FIGURE: file}
    return {}
