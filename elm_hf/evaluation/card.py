"""An evaluation's results in a checkpoint's card, as the Hub shows them (`model-index`) and in words."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from elm_hf.evaluation.markdown import METRIC_NAMES, reliance_sentences, report_table
from elm_hf.evaluation.scores import PRIMARY


BEGIN, END = "<!-- elm-hf evaluation: begin -->", "<!-- elm-hf evaluation: end -->"


def card_results(report: dict) -> list[EvalResult]:
    """
    The main scores with the ECG of each group of questions, and the signal reliance, for `ModelCardData.eval_results`.

    Args:
        report: as in report.json.
    """
    run = report["run"]
    name = Path(run["dataset"]).name
    dataset = {"dataset_type": run["dataset"] if not Path(run["dataset"]).is_dir() else name, "dataset_name": name}
    dataset |= {"dataset_config": f"fold{run['fold']}" if run["fold"].isdecimal() else run["fold"]}
    dataset |= {"dataset_split": run["split"], "task_type": "text-generation", "task_name": "ECG question answering"}
    results = []
    for group, scores in report["scores"].items():
        metric = PRIMARY[scores["kind"]]
        entry = scores["conditions"]["ecg"][metric]
        if entry["score"] is not None:
            arguments = {"answers": scores["answers"], "low": entry["low"], "high": entry["high"]}
            results.append(_result(dataset, metric, entry["score"], f"{METRIC_NAMES[metric]}, {group}", arguments))
    for kind, reliance in report["signal_reliance"].items():
        if reliance["score"] is not None:
            arguments = {"answers": reliance["answers"], "low": reliance["low"], "high": reliance["high"]}
            title = f"signal reliance ({METRIC_NAMES[PRIMARY[kind]]})"
            results.append(_result(dataset, "signal_reliance", reliance["score"], title, arguments))
    return results


def _result(dataset: dict, metric: str, score: float, title: str, arguments: dict) -> EvalResult:
    return EvalResult(
        **dataset, metric_type=metric, metric_value=round(score, 4), metric_name=title, metric_args=arguments
    )


def update_card(checkpoint: Path, report: dict) -> None:
    """
    Writes the results into the card (`README.md`) of a checkpoint folder. Results of an earlier evaluation on the same
    split are replaced; what else the card says stays.

    Args:
        checkpoint: folder of the checkpoint.
        report: as in report.json.

    Raises:
        FileNotFoundError: the folder has no card.
        ValueError: the evaluation has no answers with the ECG.
    """
    file = Path(checkpoint) / "README.md"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no card to write the results into; train_sft.py and push write one")
    if "ecg" not in report["conditions"]:
        raise ValueError(
            "the evaluation has no answers with the ECG to put into a card; evaluate with the condition `ecg`"
        )
    card = ModelCard.load(file)
    results = card_results(report)
    replaced = {(result.dataset_type, result.dataset_config, result.dataset_split) for result in results}
    earlier = card.data.eval_results or []
    kept = [r for r in earlier if (r.dataset_type, r.dataset_config, r.dataset_split) not in replaced]
    card.data.eval_results = kept + results
    card.data.model_name = card.data.model_name or Path(checkpoint).resolve().name
    before, _, rest = card.text.partition(BEGIN)
    after = rest.partition(END)[2]
    card.text = f"{before.rstrip()}\n\n{BEGIN}\n{_section(report)}\n{END}\n{after.strip()}".rstrip() + "\n"
    card.save(file)


def _section(report: dict) -> str:
    run = report["run"]
    sentences = "\n\n".join(f"**{sentence}**" for sentence in reliance_sentences(report))
    head = (
        f"## Evaluation\n\nOn {Path(run['dataset']).name}, fold {run['fold']}, {run['split']}: {report['questions']} "
    )
    return f"{head}questions, {report['patients']} patients; in brackets 95 % intervals.\n\n{sentences}\n\n{report_table(report)}"
