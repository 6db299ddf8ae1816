"""The model card (`README.md`) of a trained ELM: `cards/model_card.md` filled from its training and evaluations."""

import json
from importlib.metadata import version
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from elm_hf.data.layout import fold_config
from elm_hf.utils.reports import METRIC_NAMES, METRIC_OF_KIND, public_name


if TYPE_CHECKING:  # it needs torch
    from elm_hf.modeling.configuration_elm import ElmConfig


# Written by `ElmTrainer` into a checkpoint, so that its card can be created again, under another name or with results.
TRAINING_NAME = "elm_training.json"
BATCH_NORM_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
TAGS = ["ecg", "electrocardiogram", "ecg-language-model", "elm-hf"]


class CardFile(ModelCard):
    """A card that is saved like the other parts of a checkpoint."""

    def save_pretrained(self, folder: str | PathLike):
        """Saves the card in a folder as `README.md`."""
        self.save(Path(folder) / "README.md")


def model_card(
    folder: Path, name: str, training: dict | None, evaluations: list[dict], base: str | None = None
) -> ModelCard:
    """
    Creates the card of a checkpoint.

    Args:
        folder: folder of the checkpoint.
        name: repository or folder that the usage example loads.
        training: training record written by `ElmTrainer`; None if there is none.
        evaluations: reports of `elm-hf evaluate`. If empty, the results on the folder's existing card are kept.
        base: repository of an adapter's base model, if it differs from the one used in training.
    """
    facts = training or _facts_of_checkpoint(folder)
    if base is not None:
        facts = facts | {"base_model": base, "base_model_on_hub": True}
    readme = folder / "README.md"
    earlier = ModelCard.load(readme).data.eval_results if readme.is_file() else None
    results = [result for report in evaluations for result in _results(report)]
    data = ModelCardData(
        library_name="peft" if facts["is_adapter"] else "transformers",
        pipeline_tag="text-generation",
        base_model=facts["base_model"] if facts["base_model_on_hub"] else None,
        datasets=facts.get("datasets_on_hub") or None,
        # Weights that may not be used commercially pass that on to the model that contains them.
        license=facts["encoder_license"] if "-nc" in (facts.get("encoder_license") or "") else None,
        tags=TAGS + ([training.get("method", "sft")] if training else []),
        model_name=name.split("/")[-1],
        eval_results=results or earlier or None,
    )
    return ModelCard.from_template(
        data,
        template_str=files("elm_hf.cards").joinpath("model_card.md").read_text(encoding="utf-8"),
        name=name.split("/")[-1],
        repo=name,
        trained_here=training is not None,
        evaluations=[_table(report) for report in evaluations],
        version=version("elm-hf"),
        **facts,
    )


def read_training(folder: Path) -> dict | None:
    """Reads the training record of a checkpoint; None if `ElmTrainer` did not write one."""
    path = folder / TRAINING_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _facts_of_checkpoint(folder: Path) -> dict:
    """Facts for the card of a checkpoint without a training record."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base_model = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        return {"is_adapter": True, "base_model": base_model, "base_model_on_hub": not Path(base_model).is_dir()}
    from elm_hf.modeling.configuration_elm import ElmConfig

    facts = {"is_adapter": False, "base_model": None, "base_model_on_hub": False}
    return facts | {"num_parameters": count_parameters(folder)} | parts_of(ElmConfig.from_pretrained(folder))


def count_parameters(folder: Path) -> int:
    """Number of parameters in the weight files of a checkpoint, without the statistics of batch norms."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            names = [name for name in weights.keys() if not name.endswith(BATCH_NORM_STATISTICS)]  # noqa: SIM118
            total += sum(_size(weights.get_slice(name).get_shape()) for name in names)
    return total


def parts_of(config: "ElmConfig") -> dict:
    """Facts for the card about the parts of an ELM."""
    encoder = {} if config.encoder_config is None else config.encoder_config.to_dict()
    of_picture = f" and {config.picture_encoder_config.model_type}" if config.reads_both else ""
    return {
        "representation": ("signal and picture" if config.reads_both else config.representation)
        + (f" and {len(config.measurements)} measured values" if config.measurements else ""),
        "num_leads": config.num_leads,
        "num_samples": config.num_samples,
        "encoder": encoder.get("model_type", "none") + of_picture,
        "encoder_license": encoder.get("license"),
        "encoder_pretraining_data": encoder.get("pretraining_data") or [],
        "projector": (config.projector_type or "none")
        + (f" and {config.picture_projector_type}" if config.reads_both else ""),
        "llm": config.text_config.model_type,
    }


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _results(report: dict) -> list[EvalResult]:
    """
    Entries of the `model-index`: the scores with the true ECG, over all answers and by question type, and the signal
    reliance.
    """
    results = []
    for group, scores in report["scores"].items():
        metric = METRIC_OF_KIND[scores["kind"]]
        entry = scores["conditions"]["ecg"].get(metric, {})
        results.append(_result(report["run"], metric, f"{_metric_title(metric)}, {group}", entry))
    for reliance in report.get("signal_reliance", {}).values():
        title = f"Signal reliance ({_metric_title(reliance['metric'])})"
        results.append(_result(report["run"], "signal_reliance", title, reliance))
    return [result for result in results if result is not None]


def _result(run: dict, metric: str, title: str, entry: dict) -> EvalResult | None:
    return eval_result(run, "question-answering", "ECG question answering", metric, title, entry)


def eval_result(run: dict, task_type: str, task_name: str, metric: str, title: str, entry: dict) -> EvalResult | None:
    """
    An entry of a card's `model-index`.

    Args:
        run: of the report, with `dataset`, `fold` and `split`.
        task_type, task_name: the task, as the Hub has it.
        metric, title: type and name of the metric.
        entry: the `score`.

    Returns:
        None if there is no score: a metric is reported only where it is defined.
    """
    if entry.get("score") is None:
        return None
    return EvalResult(
        task_type=task_type,
        task_name=task_name,
        dataset_type=public_name(run["dataset"]),
        dataset_name=public_name(run["dataset"]),
        dataset_config=fold_config(run["fold"]),
        dataset_split=run["split"],
        metric_type=metric,
        metric_name=title,
        metric_value=round(entry["score"], 4),
    )


def _metric_title(metric: str) -> str:
    """The metric's name as a title begins: "Exact match"."""
    name = METRIC_NAMES[metric]
    return name[0].upper() + name[1:]


def _table(report: dict) -> dict:
    """The card's table of scores: one row per group of questions, one column per condition."""
    run, groups = report["run"], report["scores"]
    conditions = list(next(iter(groups.values()))["conditions"])
    rows = [
        {"group": group, "answers": scores["answers"], "metric": _metric_title(METRIC_OF_KIND[scores["kind"]])}
        | {
            "scores": [
                _score(scores["conditions"].get(name, {}).get(METRIC_OF_KIND[scores["kind"]])) for name in conditions
            ]
        }
        for group, scores in groups.items()
    ]
    reliance = [kind["sentence"] for kind in report.get("signal_reliance", {}).values()]
    seen = run.get("seen_patients", {}).get("sentence")  # reports of earlier versions have none
    reliance += [f"{seen[0].upper()}{seen[1:]}."] if seen else []
    place = f"{public_name(run['dataset'])}, `{fold_config(run['fold'])}`, {run['split']}"
    return {"place": place, "conditions": conditions, "rows": rows, "reliance": reliance}


def _score(entry: dict | None) -> str:
    if entry is None or entry["score"] is None:
        return ""
    interval = "" if entry.get("low") is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{entry['score']:.3f}{interval}"
