"""Results of an evaluation, or of counterfactual ECGs, in the card of the checkpoint that was evaluated."""

from importlib.util import find_spec
from os import PathLike
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from elm_hf.checkpoints.card import model_card, read_training
from elm_hf.checkpoints.card_sections import (
    CARD_FIGURE,
    COUNTERFACTUALS,
    counterfactual_section,
    keep_sections,
    with_section,
)


def update_card(checkpoint: str | PathLike, report: dict) -> None:
    """
    Writes the results of an evaluation into the card (`README.md`) of a checkpoint: as the Hub shows them (`model-index`),
    and in the text. Results on other datasets, folds or splits stay in the `model-index`, and those of an earlier probe in the
    text.

    Args:
        checkpoint: folder of the checkpoint.
        report: as in report.json.

    Raises:
        ValueError: the checkpoint is not a folder, or the evaluation has no answers with the ECG.
    """
    folder = Path(checkpoint)
    check_card_can_be_updated(checkpoint, list(report["conditions"]))
    card = model_card(folder, folder.resolve().name, read_training(folder), [report])
    readme = folder / "README.md"
    earlier = ModelCard.load(readme).data.eval_results if readme.is_file() else None
    new = {_place(result) for result in card.data.eval_results}
    card.data.eval_results = [r for r in earlier or [] if _place(r) not in new] + card.data.eval_results
    keep_sections(card, readme, [COUNTERFACTUALS])
    card.save(readme)
    if report.get("probe"):
        update_card_with_probe(checkpoint, report["probe"])


def update_card_with_probe(checkpoint: str | PathLike, probe: dict) -> None:
    """
    Writes the results of a probe into the card of a checkpoint, with their figure beside it. The rest of the card stays.

    Args:
        checkpoint: folder of the checkpoint.
        probe: as in probe.json.

    Raises:
        ValueError: the checkpoint is not a folder.
    """
    check_is_folder(checkpoint)
    folder, figure = Path(checkpoint), None
    if find_spec("matplotlib") is not None:
        from elm_hf.counterfactuals.probe_figure import save_curves

        figure = folder / CARD_FIGURE
        figure.parent.mkdir(exist_ok=True)
        save_curves(figure, probe)
    readme = folder / "README.md"
    card = ModelCard.load(readme) if readme.is_file() else model_card(folder, folder.resolve().name, None, [])
    card.text = with_section(card.text, counterfactual_section(probe | {"figure": figure and CARD_FIGURE}))
    card.save(readme)


def check_card_can_be_updated(checkpoint: str | PathLike, conditions: list[str]) -> None:
    """
    Checks before an evaluation that its results can be written into the card.

    Raises:
        ValueError: as in [`update_card`].
    """
    check_is_folder(checkpoint)
    if "ecg" not in conditions:
        raise ValueError('the card needs answers with the ECG; evaluate with the condition "ecg"')


def check_is_folder(checkpoint: str | PathLike) -> None:
    """
    Checks that a checkpoint has a card that can be written.

    Raises:
        ValueError: it is not a folder.
    """
    if not Path(checkpoint).is_dir():
        raise ValueError(
            f"{checkpoint}: results are written into the card of a folder; for a repository, give its local folder "
            "and publish it again (elm-hf publish-model --evaluation)"
        )


def _place(result: EvalResult) -> tuple:
    return result.dataset_type, result.dataset_config, result.dataset_split
