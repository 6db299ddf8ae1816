"""The model card (`README.md`) of a trained ELM: the card of every ELM, filled from its training and evaluations."""

import json
import math
from importlib.metadata import version
from os import PathLike
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard
from safetensors import safe_open

from elm_hf.data.layout import fold_config
from elm_hf.modeling.card_elm import TAGS, build_card, is_repository, parts_of
from elm_hf.utils.hub import split_revision
from elm_hf.utils.reports import METRIC_NAMES, METRIC_OF_KIND, public_name


# Written by `ElmTrainer` into a checkpoint, so that its card can be created again, under another name or with results.
TRAINING_NAME = "elm_training.json"
BATCH_NORM_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


class CardFile(ModelCard):
    """A card that is saved like the other parts of a checkpoint."""

    def save_pretrained(self, folder: str | PathLike):
        """Saves the card in a folder as `README.md`."""
        self.save(Path(folder) / "README.md")


def model_card(
    folder: Path,
    name: str,
    training: dict | None,
    evaluations: list[dict],
    base: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """
    Creates the card of a checkpoint.

    Args:
        folder: folder of the checkpoint.
        name: repository or folder that the usage example loads.
        training: training record written by `ElmTrainer`; None if there is none.
        evaluations: reports of `elm-hf evaluate`. If empty, the results on the folder's existing card are kept.
        base: repository of an adapter's base model, if it differs from the one used in training.
        license: licence of the weights; that of the LLM by default.
    """
    facts = training or _facts_of_checkpoint(folder)
    if base is not None:
        facts = facts | {"base_model": base, "base_model_on_hub": True}
    readme = folder / "README.md"
    earlier = ModelCard.load(readme).data.eval_results if readme.is_file() else None
    results = [result for report in evaluations for result in _results(report)]
    metadata = _base_models(facts, is_trained=training is not None)
    if license is not None:
        metadata |= {"license": license, "license_name": None, "license_link": None}
    variables = {
        "trained_here": training is not None,
        "evaluations": [_table(report) for report in evaluations],
        "version": version("elm-hf"),
    }
    return build_card(
        name,
        facts | variables,
        library_name="peft" if facts["is_adapter"] else "transformers",
        datasets=facts.get("datasets_on_hub") or None,
        language=facts.get("languages") or None,
        tags=TAGS + ([training.get("method", "sft")] if training else []),
        eval_results=results or earlier or None,
        **metadata,
    )


def _base_models(facts: dict, is_trained: bool) -> dict:
    """
    The models on the Hub that a checkpoint was made of, and how: `adapter`, `merge` of several models or of an adapter
    into its base, or `finetune`.
    """
    names = [facts["base_model"]] if facts["base_model_on_hub"] else facts.get("repositories") or []
    relation = "adapter" if facts["is_adapter"] else "finetune" if is_trained or len(names) == 1 else "merge"
    if "merged_adapter" in facts:
        relation = "merge"
        names = names + [name for name in [facts["merged_adapter"]] if name is not None]
    return {"base_model": names or None, "base_model_relation": relation if names else None}


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
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    return total


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
    claims = report.get("claims") or {}  # nor a sentence about claims
    reliance += [claims["sentence"]] if "sentence" in claims else []
    reliance += [f"{seen[0].upper()}{seen[1:]}."] if seen else []
    place = f"{public_name(run['dataset'])}, `{fold_config(run['fold'])}`, {run['split']}"
    return {"place": place, "conditions": conditions, "rows": rows, "reliance": reliance}


def _score(entry: dict | None) -> str:
    if entry is None or entry["score"] is None:
        return ""
    interval = "" if entry.get("low") is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{entry['score']:.3f}{interval}"


def is_public(run: dict) -> bool:
    """Whether the dataset of a report is on the Hub. Reports of earlier versions do not say so, and their name decides."""
    return run.get("dataset_on_hub", is_repository(split_revision(run["dataset"])[0]))
