"""An evaluation's results in the card of the checkpoint that was evaluated."""

from os import PathLike
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from elm_hf.checkpoints.card import model_card, read_training


def update_card(checkpoint: str | PathLike, report: dict) -> None:
    """
    Writes the results of an evaluation into the card (`README.md`) of a checkpoint: as the Hub shows them (`model-index`),
    and in the text. Results on other datasets, folds or splits stay in the `model-index`.

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
    card.save(readme)


def check_card_can_be_updated(checkpoint: str | PathLike, conditions: list[str]) -> None:
    """
    Checks before an evaluation that its results can be written into the card.

    Raises:
        ValueError: as in [`update_card`].
    """
    if not Path(checkpoint).is_dir():
        raise ValueError(
            f"{checkpoint}: results are written into the card of a folder; for a repository, give its local folder "
            "and publish it again (elm-hf publish-model --evaluation)"
        )
    if "ecg" not in conditions:
        raise ValueError('the card needs answers with the ECG; evaluate with the condition "ecg"')


def _place(result: EvalResult) -> tuple:
    return result.dataset_type, result.dataset_config, result.dataset_split
