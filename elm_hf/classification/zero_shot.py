"""Zero-shot classification: an ECG-language model chooses an option, and an encoder with a text tower compares prompts."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.classification.zero_shot_prompts import PROMPTS, ecg_lm_content, question_content, read_option
from elm_hf.classification.zero_shot_report import WAYS, zero_shot_table
from elm_hf.classification.zero_shot_scores import (
    auroc_scores,
    classification_scores,
    majority_scores,
    multi_label_scores,
)
from elm_hf.classification.zero_shot_tasks import ZeroShotTask, load_task
from elm_hf.data.ecg_table import EcgSequence, EcgTable
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs
from elm_hf.data.patients import record_patients
from elm_hf.data.seen_patients import check_evaluated_patients
from elm_hf.data.tables import load_records
from elm_hf.evaluation.report_folder import check_results, write_identity
from elm_hf.inference.generation import generate_answers, log_likelihoods
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.scoring.intervals import PatientBootstrap
from elm_hf.scoring.names import ZERO_SHOT_NAME, ZERO_SHOT_TEXT_NAME
from elm_hf.training.alignment import read_descriptions
from elm_hf.utils.hub import check_name
from elm_hf.utils.reports import REPORT_SCHEMA, public_run


LONGEST_ANSWER = 16
ECGS_AT_ONCE = 8
# What is asked beside the ECG with the options in their own order.
CONTROLS = ("zeros", "shuffled", "permuted")
DRAWS = 50


@dataclass(frozen=True)
class ChoiceOptions:
    """
    How an ECG-language model is asked.

    Attributes:
        prompt: `"question"` (the ECG and a question) or `"ecg_lm"` (the prompt of Yang et al. 2024).
        descriptions: table of `elm-hf describe`, for the prompt of ECG-LM.
        controls: whether to ask with the ECG zeroed, with another patient's, and with permuted letters, too.
        multi_label: whether to ask about all ECGs, also those of none or several of the classes.

    Raises:
        ValueError: unknown prompt, or `descriptions` missing for the prompt of ECG-LM.
    """

    prompt: str = "question"
    descriptions: str | PathLike | None = None
    controls: bool = True
    multi_label: bool = False

    def __post_init__(self):
        if self.prompt not in PROMPTS:
            raise ValueError(f'unknown prompt "{self.prompt}"; there are {", ".join(PROMPTS)}')
        if (self.prompt == "ecg_lm") != (self.descriptions is not None):
            raise ValueError(
                'the prompt "ecg_lm", and no other, needs descriptions of the ECGs (elm-hf describe): --prompt ecg_lm '
                "--descriptions FILE"
            )


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
    options: ChoiceOptions | None = None,
    allow_seen_patients: bool = False,
) -> dict:
    """
    Classifies the ECGs of a split without training for the task.

    An ECG-language model is asked with the classes as options A, B, C, ..., and chooses twice: by the letter that it
    writes, and by the letter that it finds most probable (Yang et al. 2024, ECG-LM). Unless scored with several labels, it is
    asked about ECGs of exactly one of the classes only. It is asked again with the ECG zeroed, with that of another patient
    (of other classes where there is one), and with the options in another order for each ECG. An encoder with a text tower
    (MERL) gives each ECG the cosine to each class's prompt, and these rank the ECGs: the AUROC of each class over all ECGs
    (Liu et al. 2024, MERL).

    Args:
        checkpoint: folder or repository of an ELM or of a `MerlForPreTraining`.
        dataset: elm-hf dataset whose records have `labels`.
        tasks: names of `TASKS`, or JSON files (see [`load_task`]).
        fold, split: where the ECGs are from.
        output: folder for `zero_shot.json`, `zero_shot.md` and confusion matrices; nothing is written by default.
        tokenizer: tokenizer of the text tower; the checkpoint's own by default.
        records: folder with the signals of a dataset that was published without them.
        limit: largest number of ECGs, drawn evenly; all by default.
        seed: random seed for the bootstrap, other patients' ECGs and orders of options.
        quiet: no progress bar.
        options: how an ECG-language model is asked.
        allow_seen_patients: continue if the checkpoint was trained on some of the patients; the report says so.

    Returns:
        `run`, `seen_patients`, and `tasks`: name to the scores (docs/classification.md has the schema).

    Raises:
        ValueError: unknown task, no ECG of a task's classes, ECGs without a description, a checkpoint of another kind, or an
            `output` with the classification of another checkpoint, other data or other settings.
    """
    options = options or ChoiceOptions()
    loaded = [load_task(task) for task in tasks]
    run = {"schema": REPORT_SCHEMA, "checkpoint": str(checkpoint), "dataset": str(dataset), "fold": str(fold)}
    run |= {"split": split, "limit": limit, "tasks": [task.name for task in loaded], "seed": seed}
    run |= {"prompt": options.prompt, "controls": options.controls, "multi_label": options.multi_label}
    run["descriptions"] = None if options.descriptions is None else str(options.descriptions)
    if output is not None:
        check_results(Path(output), ZERO_SHOT_NAME, run)
    ecgs = LabelledEcgs(dataset, fold, split, records, limit)
    patients = {name for names in ecgs.patients for name in names}
    seen = check_evaluated_patients(checkpoint, patients, allow_seen_patients)
    is_merl = _is_merl(checkpoint)
    for task in loaded:  # all of them before the first, which may take long
        _check_classes(task, ecgs.classes(task), is_merl)
    classifier = _merl_classifier(checkpoint, tokenizer) if is_merl else _elm_classifier(checkpoint, ecgs, options)
    found = {task.name: classifier(task, ecgs, seed, quiet) for task in loaded}
    report = {"run": public_run(run), "seen_patients": seen, "tasks": found}
    if output is not None:
        _write(Path(output), report)
        write_identity(Path(output), ZERO_SHOT_NAME, run)
    return report


class LabelledEcgs:
    """
    The ECGs of a split, each once.

    Attributes:
        records: name of each ECG.
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
        chosen = table.select(numbers)
        facts = chosen.select_columns(["record_id", "labels", "sampling_rate"])[:]
        self.records = facts["record_id"]
        self.ecgs = EcgSequence(EcgTable(table), numbers)
        self.labels = [set(labels or ()) for labels in facts["labels"]]
        self.patients = [(patient,) for patient in record_patients(chosen).to_pylist()]
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


@dataclass(frozen=True)
class Choices:
    """
    What an ECG-language model chose for each ECG.

    Attributes:
        written: number of the class whose letter it wrote; None if it wrote none.
        log_likelihoods: `(ecgs, classes)`, of the letter of each class as the whole answer.
    """

    written: list[int | None]
    log_likelihoods: np.ndarray

    def of(self, rows: np.ndarray) -> dict[str, list[int | None]]:
        """The classes chosen by letter and by likelihood for some of the ECGs."""
        likely = self.log_likelihoods.argmax(axis=1)
        return {"letter": [self.written[row] for row in rows], "likelihood": likely[rows].tolist()}


def _elm_classifier(checkpoint: str | PathLike, ecgs: LabelledEcgs, options: ChoiceOptions) -> Callable:
    descriptions = None if options.descriptions is None else _descriptions(options.descriptions, ecgs.records)
    model, processor = load_checkpoint(checkpoint)

    def classify(task: ZeroShotTask, ecgs: LabelledEcgs, seed: int, quiet: bool) -> dict:
        member = ecgs.classes(task)
        is_one = member.sum(axis=1) == 1
        asked = np.arange(len(member)) if options.multi_label else np.flatnonzero(is_one)
        donors, num_other = other_classes(member, ecgs.patients, asked, seed)
        found = {}
        for condition in ("ecg", *(CONTROLS if options.controls else ())):
            if condition == "shuffled" and donors is None:
                continue
            found[condition] = _ask(model, processor, task, ecgs, asked, condition, donors, seed, quiet, descriptions)
        rows = np.flatnonzero(is_one[asked])  # of exactly one class, among those asked
        truth = member[asked[rows]].argmax(axis=1)
        bootstrap = PatientBootstrap([ecgs.patients[row] for row in asked[rows]], seed=seed)
        scores = {
            condition: {
                way: classification_scores(truth, chosen, task, bootstrap) for way, chosen in choices.of(rows).items()
            }
            for condition, choices in found.items()
        }
        numbers = zip(task.classes, member.sum(axis=0).tolist(), member[is_one].sum(axis=0).tolist())
        result = {
            "ecgs": len(rows),
            "patients": bootstrap.num_patients,
            "split_ecgs": len(member),
            "left_out": {
                "of no class": int((member.sum(axis=1) == 0).sum()),
                "of several": int((member.sum(axis=1) > 1).sum()),
            },
            "members": {one.name: {"ecgs": every, "of_this_class_only": only} for one, every, only in numbers},
            "majority": majority_scores(member[asked[rows]], task, bootstrap),
            **scores.pop("ecg"),
            "controls": scores,
            "donors": {"other_classes": num_other, "no_other_classes": len(asked) - num_other},
        }
        if options.multi_label:
            result["multi_label"] = {
                condition: multi_label_scores(
                    member, choices.written, choices.log_likelihoods, task, ecgs.patients, seed
                )
                for condition, choices in found.items()
            }
        return result

    return classify


def _descriptions(file: str | PathLike, records: Sequence[str]) -> list[dict]:
    """The description of each record."""
    of_record = {row["record_id"]: row for row in read_descriptions(Path(file))}
    missing = [name for name in records if name not in of_record]
    if missing:
        raise ValueError(
            f"{file}: no description of {len(missing)} of the {len(records)} ECGs, such as {missing[0]}; run elm-hf describe "
            "on this dataset"
        )
    return [of_record[name] for name in records]


def other_classes(
    member: np.ndarray, patients: Sequence[tuple[str, ...]], asked: np.ndarray, seed: int
) -> tuple[Mapping[int, int] | None, int]:
    """
    For each ECG that is asked about one of another patient among them, of none of its classes where there is one.

    Args:
        member: `(ecgs, classes)`, whether an ECG is of a class.
        patients: of each ECG.
        asked: numbers of the ECGs that are asked about.
        seed: random seed.

    Returns:
        ECG to its replacement, None if there is one patient only; and the number of replacements of other classes.
    """
    rng = np.random.default_rng(seed)
    donors, num_other = {}, 0
    for row in asked.tolist():
        fit = [other for other in rng.choice(asked, DRAWS).tolist() if patients[other] != patients[row]]
        differs = [other for other in fit if not (member[other] & member[row]).any()]
        if not differs:
            fit = [other for other in asked.tolist() if patients[other] != patients[row]]
            differs = [other for other in fit if not (member[other] & member[row]).any()]
            if not fit:
                return None, 0
            rng.shuffle(fit)
            rng.shuffle(differs)
        num_other += bool(differs)
        donors[row] = (differs or fit)[0]
    return donors, num_other


def _ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    task: ZeroShotTask,
    ecgs: LabelledEcgs,
    asked: np.ndarray,
    condition: str,
    donors: Mapping[int, int] | None,
    seed: int,
    quiet: bool,
    descriptions: Sequence[dict] | None,
) -> Choices:
    """What the model chooses for the ECGs with the numbers `asked`, under `"ecg"` or one of `CONTROLS`."""
    written, scores = [], []
    starts = range(0, len(asked), ECGS_AT_ONCE)
    for start in tqdm(starts, desc=f"asking, {task.name}, {condition}", unit="batch", disable=quiet or None):
        rows = asked[start : start + ECGS_AT_ONCE].tolist()
        seen = [ecgs.ecgs[donors[row] if condition == "shuffled" else row] for row in rows]
        if condition == "zeros":
            seen = [np.zeros_like(ecg) for ecg in seen]
        number = len(task.classes)
        orders = [np.arange(number)] * len(rows)
        if condition == "permuted":
            orders = [np.random.default_rng([seed, row]).permutation(number) for row in rows]
        contents = [
            question_content(task, order) if descriptions is None else ecg_lm_content(task, order, descriptions[row])
            for row, order in zip(rows, orders)
        ]
        found = choose_options(model, processor, task, contents, orders, seen, ecgs.sampling_rate)
        written += found.written
        scores.append(found.log_likelihoods)
    return Choices(written, np.concatenate(scores))


def choose_options(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    task: ZeroShotTask,
    contents: Sequence[list[dict]],
    orders: Sequence[Sequence[int]],
    ecgs: Sequence[np.ndarray],
    sampling_rate: float,
) -> Choices:
    """
    The class that an ECG-language model chooses for each ECG.

    Args:
        model, processor: of a checkpoint.
        task: the task.
        contents: the prompt about each ECG, with one `{"type": "ecg"}` item.
        orders: in which the classes have the letters, in each prompt.
        ecgs: each `(12, samples)` in mV.
        sampling_rate: in Hz.
    """
    prompts = [
        fill_ecgs([{"role": "user", "content": content}], [ecg], sampling_rate, keep_flat=not ecg.any())
        for content, ecg in zip(contents, ecgs)
    ]
    answers = generate_answers(model, processor, prompts, LONGEST_ANSWER)
    written = [read_option(one.text, task, order) for one, order in zip(answers, orders)]
    answered = [
        [*prompt, {"role": "assistant", "content": [{"type": "text", "text": letter}]}]
        for prompt in prompts
        for letter in task.letters
    ]
    of_letters = log_likelihoods(model, processor, answered).reshape(len(ecgs), len(task.classes))
    of_classes = np.empty_like(of_letters)
    np.put_along_axis(of_classes, np.array(orders), of_letters, axis=1)
    return Choices(written, of_classes)


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


def _write(folder: Path, report: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = f"# Zero-shot classification by {report['run']['checkpoint']}\n\n{zero_shot_table(report)}\n"
    for name, found in report["tasks"].items():
        if "letter" in found and find_spec("matplotlib") is not None:
            from elm_hf.evaluation.figures import confusion_figure
            from elm_hf.scoring.figure_style import DPI

            for way in WAYS:
                file = f"confusion_{name}_{way}.png"
                confusion_figure(found[way]["confusion"], f"{name}, by {way}").savefig(folder / file, dpi=DPI)
                text += f"\n![{name}, by {way}]({file})\n"
    (folder / ZERO_SHOT_NAME).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / ZERO_SHOT_TEXT_NAME).write_text(text, encoding="utf-8")
