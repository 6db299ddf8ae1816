"""Zero-shot classification: an ECG-language model chooses an option, and an encoder with a text tower compares prompts."""

import json
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.ecg_table import EcgSequence, EcgTable
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs
from elm_hf.data.seen_patients import check_evaluated_patients
from elm_hf.data.tables import load_records
from elm_hf.evaluation.intervals import PatientBootstrap
from elm_hf.evaluation.markdown import markdown_table, score_cell
from elm_hf.evaluation.names import ZERO_SHOT_NAME, ZERO_SHOT_TEXT_NAME
from elm_hf.evaluation.report_folder import check_same_run
from elm_hf.evaluation.scores import score_entry
from elm_hf.evaluation.zero_shot_tasks import ZeroShotTask, load_task
from elm_hf.inference.generation import generate_answers, log_likelihoods
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.utils.hub import check_name


LONGEST_ANSWER = 16
ECGS_AT_ONCE = 8
NO_CHOICE = "(no choice)"


def zero_shot(
    checkpoint: str | PathLike,
    dataset: str | PathLike,
    tasks: Sequence[str] = ("diagnostic", "rhythm", "form"),
    fold: int | str = 1,
    split: str = "test",
    output: str | PathLike | None = None,
    tokenizer: str | None = None,
    records: str | PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
    quiet: bool = False,
    allow_seen_patients: bool = False,
) -> dict:
    """
    Classifies the ECGs of a split without training for the task.

    An ECG-language model is asked with the classes as options A, B, C, ..., and chooses twice: by the letter that it
    writes, and by the letter that it finds most probable (Yang et al. 2024, ECG-LM). It is asked about ECGs of exactly one
    of the classes only. An encoder with a text tower (MERL) gives each ECG the cosine to each class's prompt, and
    these rank the ECGs: the AUROC of each class over all ECGs (Liu et al. 2024, MERL).

    Args:
        checkpoint: folder or repository of an ELM or of a `MerlForPreTraining`.
        dataset: elm-hf dataset whose records have `labels`.
        tasks: names of `TASKS`, or JSON files (see [`load_task`]).
        fold, split: where the ECGs are from.
        output: folder for `zero_shot.json`, `zero_shot.md` and confusion matrices; nothing is written by default.
        tokenizer: tokenizer of the text tower; the checkpoint's own by default.
        records: folder with the signals of a dataset that was published without them.
        limit: largest number of ECGs, drawn evenly; all by default.
        seed: random seed for the bootstrap.
        quiet: no progress bar.
        allow_seen_patients: continue if the checkpoint was trained on some of the patients; the report says so.

    Returns:
        `run`, `seen_patients`, and `tasks`: name to the scores (docs/evaluation.md has the schema).

    Raises:
        ValueError: unknown task, no ECG of a task's classes, a checkpoint of another kind, or an `output` with the
            classification of another checkpoint, other data or other settings.
    """
    loaded = [load_task(task) for task in tasks]
    run = {"checkpoint": str(checkpoint), "dataset": str(dataset), "fold": str(fold), "split": split, "limit": limit}
    run |= {"tasks": [task.name for task in loaded], "seed": seed}
    if output is not None and (Path(output) / ZERO_SHOT_NAME).exists():
        check_same_run(
            Path(output), json.loads((Path(output) / ZERO_SHOT_NAME).read_text(encoding="utf-8"))["run"], run
        )
    ecgs = LabelledEcgs(dataset, fold, split, records, limit)
    patients = {name for names in ecgs.patients for name in names}
    seen = check_evaluated_patients(checkpoint, patients, allow_seen_patients)
    is_merl = _is_merl(checkpoint)
    for task in loaded:  # all of them before the first, which may take long
        _check_classes(task, ecgs.classes(task), is_merl)
    classifier = _merl_classifier(checkpoint, tokenizer) if is_merl else _elm_classifier(checkpoint)
    found = {task.name: classifier(task, ecgs, seed, quiet) for task in loaded}
    report = {"run": run, "seen_patients": seen, "tasks": found}
    if output is not None:
        _write(Path(output), report)
    return report


class LabelledEcgs:
    """
    The ECGs of a split, each once.

    Attributes:
        ecgs: sequence of arrays `(12, samples)` in mV.
        labels: of each ECG, a set of strings.
        patients: of each ECG, `("source/patient",)`.
        sampling_rate: in Hz.

    Raises:
        ValueError: there are no ECGs, or none has labels.
    """

    def __init__(self, dataset, fold, split, records, limit):
        rows = load_elm_dataset(dataset, fold=fold, split=split, records=records)
        numbers = sorted({number for those in rows.select_columns("ecg_index")[:]["ecg_index"] for number in those})
        if limit is not None and limit < len(numbers):
            numbers = [numbers[place] for place in np.linspace(0, len(numbers) - 1, limit).astype(int)]
        if not numbers:
            raise ValueError(f"{dataset}: {split} of fold {fold} has no ECGs")
        table = load_records(records or dataset)
        facts = table.select_columns(["labels", "source", "patient_id", "sampling_rate"]).select(numbers)[:]
        self.ecgs = EcgSequence(EcgTable(table), numbers)
        self.labels = [set(labels or ()) for labels in facts["labels"]]
        self.patients = [(f"{source}/{patient}",) for source, patient in zip(facts["source"], facts["patient_id"])]
        self.sampling_rate = facts["sampling_rate"][0]
        if not any(self.labels):
            raise ValueError(f"{dataset}: the records of {split} of fold {fold} have no labels to compare with")

    def classes(self, task: ZeroShotTask) -> np.ndarray:
        """Whether each ECG is of each class, `(ecgs, classes)`."""
        return np.array([[not labels.isdisjoint(one.labels) for one in task.classes] for labels in self.labels])


def _is_merl(checkpoint: str | PathLike) -> bool:
    check_name(str(checkpoint))
    if (Path(checkpoint) / "adapter_config.json").is_file():
        return False
    return PreTrainedConfig.get_config_dict(str(checkpoint))[0].get("model_type") == "merl"


def _check_classes(task: ZeroShotTask, member: np.ndarray, is_merl: bool) -> None:
    """Raises ValueError unless there is something to classify; `member` is `(ecgs, classes)`."""
    if is_merl and not (member.any(axis=0) & ~member.all(axis=0)).any():
        reason = "no class has both ECGs in it and ECGs outside, so there is no AUROC"
    elif not is_merl and not (member.sum(axis=1) == 1).any():
        reason = "no ECG is of exactly one class, so there is nothing to ask"
    else:
        return
    raise ValueError(f"task {task.name!r}: {reason}; name the other tasks with --task, or take more ECGs")


def _elm_classifier(checkpoint: str | PathLike) -> Callable:
    model, processor = load_checkpoint(checkpoint)

    def classify(task: ZeroShotTask, ecgs: LabelledEcgs, seed: int, quiet: bool) -> dict:
        member = ecgs.classes(task)
        chosen = np.flatnonzero(member.sum(axis=1) == 1)
        letters, likely = [], []
        starts = range(0, len(chosen), ECGS_AT_ONCE)
        for start in tqdm(starts, desc=f"asking, {task.name}", unit="batch", disable=quiet or None):
            batch = [ecgs.ecgs[int(row)] for row in chosen[start : start + ECGS_AT_ONCE]]
            written, probable = choose_options(model, processor, task, batch, ecgs.sampling_rate)
            letters += written
            likely += probable
        truth = member[chosen].argmax(axis=1)
        bootstrap = PatientBootstrap([ecgs.patients[row] for row in chosen], seed=seed)
        left_out = {
            "of no class": int((member.sum(axis=1) == 0).sum()),
            "of several": int((member.sum(axis=1) > 1).sum()),
        }
        return {
            "ecgs": len(chosen),
            "patients": bootstrap.num_patients,
            "left_out": left_out,
            "letter": classification_scores(truth, letters, task, bootstrap),
            "likelihood": classification_scores(truth, likely, task, bootstrap),
        }

    return classify


def option_prompt(task: ZeroShotTask) -> str:
    """The question for an ECG-language model."""
    options = [f"{letter}. {one.prompt}" for letter, one in zip(task.letters, task.classes)]
    return "\n".join([task.question, *options, "Answer with the letter of one option."])


def choose_options(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    task: ZeroShotTask,
    ecgs: Sequence[np.ndarray],
    sampling_rate: float,
) -> tuple[list[int | None], list[int]]:
    """
    The class that an ECG-language model chooses for each ECG: by the letter that it writes (None if it writes none), and
    by the letter that is most probable as the whole answer.
    """
    content = [{"type": "ecg"}, {"type": "text", "text": option_prompt(task)}]
    prompts = [fill_ecgs([{"role": "user", "content": content}], [ecg], sampling_rate) for ecg in ecgs]
    written = [read_option(one.text, task) for one in generate_answers(model, processor, prompts, LONGEST_ANSWER)]
    answered = [
        [*prompt, {"role": "assistant", "content": [{"type": "text", "text": letter}]}]
        for prompt in prompts
        for letter in task.letters
    ]
    scores = log_likelihoods(model, processor, answered).reshape(len(ecgs), len(task.classes))
    return written, scores.argmax(axis=1).tolist()


def read_option(answer: str, task: ZeroShotTask) -> int | None:
    """
    The option that an answer names: a capital letter alone or before a dot, colon or bracket ("B", "(B) atrial
    fibrillation"), a small letter alone, or else the words of exactly one option.
    """
    found = re.match(r"\W*([A-Z])(?=\W*$|\s*[.:)])", answer) or re.fullmatch(r"\W*([a-z])\W*", answer)
    if found:
        place = task.letters.find(found[1].upper())
        return place if place >= 0 else None
    named = [place for place, one in enumerate(task.classes) if one.prompt.lower() in answer.lower()]
    return named[0] if len(named) == 1 else None


def classification_scores(
    truth: np.ndarray, predicted: Sequence[int | None], task: ZeroShotTask, bootstrap: PatientBootstrap
) -> dict:
    """
    Accuracy, and precision, recall and F1 of each class and averaged over the classes that occur. No choice counts as
    wrong; a class that is never predicted has precision 0.

    Args:
        truth: number of each ECG's class.
        predicted: number of the class that was chosen; None for no choice.
        task: the task.
        bootstrap: bootstrap over the patients of the ECGs.
    """
    number = len(task.classes)
    cells = np.zeros((len(truth), number * (number + 1)))
    columns = [number if choice is None else choice for choice in predicted]
    cells[np.arange(len(truth)), truth * (number + 1) + columns] = 1
    sums = np.concatenate([cells.sum(axis=0, keepdims=True), bootstrap.sums(cells, np.arange(len(truth)))])
    matrices = sums.reshape(-1, number, number + 1)
    occurs = matrices[0].sum(axis=1) > 0
    hits, support = np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(axis=2)
    chosen = matrices.sum(axis=1)[:, :number]
    with np.errstate(invalid="ignore", divide="ignore"):
        of_class = {
            "precision": np.where(chosen > 0, hits / chosen, 0),
            "recall": hits / support,
            "f1": 2 * hits / (support + chosen),
        }
    scores = {"accuracy": hits.sum(axis=1) / support.sum(axis=1)}
    # The averages of a resample without one of the classes are not defined.
    scores |= {
        f"macro_{name}": np.where(support > 0, values, np.nan)[:, occurs].mean(axis=1)
        for name, values in of_class.items()
    }
    labels = [one.name for one in task.classes]
    per_class = {
        label: {name: float(values[0, place]) for name, values in of_class.items()} | {"ecgs": int(support[0, place])}
        for place, label in enumerate(labels)
        if occurs[place]
    }
    matrix = matrices[0].astype(int).tolist()
    return {name: score_entry(values, bootstrap.num_patients) for name, values in scores.items()} | {
        "no_choice": int(matrices[0][:, -1].sum()),
        "classes": per_class,
        "absent_classes": [label for place, label in enumerate(labels) if not occurs[place]],
        "confusion": {"labels": [*labels, NO_CHOICE], "matrix": [*matrix, [0] * (number + 1)], "answers": len(truth)},
    }


def _merl_classifier(checkpoint: str | PathLike, tokenizer: str | None) -> Callable:
    from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
    from elm_hf.modeling.modeling_merl import MerlForPreTraining

    model = MerlForPreTraining.from_pretrained(checkpoint).eval()
    feature_extractor = EcgFeatureExtractor.from_pretrained(checkpoint)
    try:
        text_tokenizer = AutoTokenizer.from_pretrained(tokenizer or checkpoint)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{tokenizer or checkpoint}: no tokenizer of the text tower; name one (--tokenizer)"
        ) from error

    def classify(task: ZeroShotTask, ecgs: LabelledEcgs, seed: int, quiet: bool) -> dict:
        prompts = [one.prompt.lower() for one in task.classes]
        text = text_tokenizer(prompts, padding=True, return_tensors="pt")
        scores = []
        starts = range(0, len(ecgs.ecgs), ECGS_AT_ONCE)
        for start in tqdm(starts, desc=f"comparing, {task.name}", unit="batch", disable=quiet or None):
            batch = ecgs.ecgs[start : start + ECGS_AT_ONCE]
            options = {"sampling_rate": ecgs.sampling_rate, "lead_names": list(LEADS), "return_tensors": "pt"}
            values = feature_extractor(batch, **options)["ecg_values"]
            with torch.inference_mode():
                scores.append(model.classify(values, text["input_ids"], text["attention_mask"]))
        bootstrap = PatientBootstrap(ecgs.patients, seed=seed)
        return auroc_scores(ecgs.classes(task), torch.cat(scores).numpy(), task, bootstrap)

    return classify


def auroc_scores(member: np.ndarray, scores: np.ndarray, task: ZeroShotTask, bootstrap: PatientBootstrap) -> dict:
    """
    AUROC of each class against all other ECGs, and the mean over the classes for which it is defined.

    Args:
        member: `(ecgs, classes)`, whether an ECG is of a class.
        scores: `(ecgs, classes)`, higher where the class is likelier.
        task: names of the classes.
        bootstrap: bootstrap over the patients of the ECGs.
    """
    weights = np.concatenate([np.ones((1, len(member))), bootstrap.question_weights()])
    samples = np.stack([weighted_auroc(member[:, k], scores[:, k], weights) for k in range(len(task.classes))])
    defined = ~np.isnan(samples[:, 0])
    classes = {
        one.name: score_entry(samples[place], bootstrap.num_patients) | {"ecgs": int(member[:, place].sum())}
        for place, one in enumerate(task.classes)
    }
    macro = score_entry(samples[defined].mean(axis=0), bootstrap.num_patients)
    return {"ecgs": len(member), "patients": bootstrap.num_patients, "macro_auroc": macro, "classes": classes}


def weighted_auroc(member: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    The probability that an ECG of the class has a higher score than another one; ties count half (Mann & Whitney 1947).

    Args:
        member, scores: `(ecgs,)`.
        weights: `(resamples, ecgs)`, how often each ECG was drawn.

    Returns:
        `(resamples,)`, NaN where all ECGs or none of them are of the class.
    """
    levels, level = np.unique(scores, return_inverse=True)
    inside, outside = (
        np.stack([np.bincount(level, row, len(levels)) for row in weights * those]) for those in (member, ~member)
    )
    below = np.cumsum(outside, axis=1) - outside / 2
    with np.errstate(invalid="ignore"):
        return (inside * below).sum(axis=1) / (inside.sum(axis=1) * outside.sum(axis=1))


def zero_shot_table(report: dict) -> str:
    """The scores as Markdown."""
    seen = report["seen_patients"]["sentence"]
    tables = [f"{seen[0].upper()}{seen[1:]}."] if seen else []
    for name, found in report["tasks"].items():
        head = f"### {name}: {found['ecgs']} ECGs, {found['patients']} patients"
        if "macro_auroc" in found:
            rows = [[label, str(entry["ecgs"]), score_cell(entry)] for label, entry in found["classes"].items()]
            rows.append(["mean", "", score_cell(found["macro_auroc"])])
            tables.append(f"{head}\n\n{markdown_table(['class', 'ECGs', 'AUROC'], rows)}")
            continue
        ways = ("letter", "likelihood")
        metrics = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
        rows = [[metric.replace("_", " "), *(score_cell(found[way][metric]) for way in ways)] for metric in metrics]
        rows.append(["no choice", *(str(found[way]["no_choice"]) for way in ways)])
        left_out = ", ".join(f"{number} {why}" for why, number in found["left_out"].items())
        parts = [f"{head} (left out: {left_out})", markdown_table(["", *ways], rows)]
        for way in ways:
            classes = found[way]["classes"].items()
            cells = [
                [label, str(e["ecgs"]), *(f"{e[key]:.3f}" for key in ("precision", "recall", "f1"))]
                for label, e in classes
            ]
            parts.append(markdown_table([f"by {way}", "ECGs", "precision", "recall", "F1"], cells))
        tables.append("\n\n".join(parts))
    return "\n\n".join(tables)


def _write(folder: Path, report: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = f"# Zero-shot classification by {report['run']['checkpoint']}\n\n{zero_shot_table(report)}\n"
    for name, found in report["tasks"].items():
        if "letter" in found and find_spec("matplotlib") is not None:
            from elm_hf.evaluation.figures import DPI, confusion_figure

            for way in ("letter", "likelihood"):
                file = f"confusion_{name}_{way}.png"
                confusion_figure(found[way]["confusion"], f"{name}, by {way}").savefig(folder / file, dpi=DPI)
                text += f"\n![{name}, by {way}]({file})\n"
    (folder / ZERO_SHOT_NAME).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / ZERO_SHOT_TEXT_NAME).write_text(text, encoding="utf-8")
