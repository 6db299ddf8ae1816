"""Questions from labels, in the form of ECG-QA (Oh et al. 2023): verify, choose, query, and comparisons of two ECGs.

The questions of a template are drawn so that their text does not give away the answer. Of the verify questions about a
finding, half are answered with "yes"; of the choose questions about two findings, each is the answer equally often; of
the query questions, frequent answers are left out until none has more than a fifth. This holds in each official split.
"""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from elm_hf.data.layout import SPLITS
from elm_hf.data.messages import ecg_messages
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.label_table import LabelTable, Topic
from elm_hf.prepare.label_wordings import (
    BOTH,
    CHOOSE,
    CHOOSE_ALL,
    GONE,
    NEW,
    QUERY,
    QUESTION_TYPES,
    VERIFY,
    WHAT_IS_GONE,
    WHAT_IS_NEW,
    answer_name,
    phrase,
    wordings,
)


QUESTIONS_PER_ECG = 16
# A finding is asked about if at least this number of recordings has it, or of pairs for a comparison.
MIN_RECORDINGS, MIN_PAIRS = 10, 5
# Largest share of an answer in the questions of a query template, if it has enough different answers.
MAX_SHARE = 0.2
# Largest number of findings in the answer to a query.
MAX_ITEMS = 3

# Recordings (or numbers of pairs) with an answer, in the order in which questions are drawn from them.
_Cells = list[tuple[list[str], np.ndarray]]


@dataclass(frozen=True)
class _Unit:
    """
    The questions of a template about the same findings, which are balanced for themselves.

    Attributes:
        labels: findings in the question; none for a query.
        cells: returns the recordings (or pairs) with each answer, given a random generator.
        sizes: returns the number of questions from each cell, given the sizes of the cells and a maximum number.
    """

    labels: tuple[str, ...]
    cells: Callable[[np.random.Generator], _Cells]
    sizes: Callable[[list[int], float], list[int]]


@dataclass(frozen=True)
class _Template:
    topic: Topic
    kind: int
    units: list[_Unit]
    available: list[dict[int, int]]  # number of questions of each unit by official split

    @property
    def id(self) -> int:
        return 100 * self.topic.number + self.kind

    @property
    def total(self) -> int:
        return sum(sum(of_unit.values()) for of_unit in self.available)


def label_questions(
    table: LabelTable,
    ecg_names: tuple[str, str],
    seed: int,
    per_ecg: int | None = None,
    per_template: int | None = None,
) -> Iterator[dict]:
    """
    Draw questions about the recordings of a table, template by template. Only a template is in memory at a time.

    Args:
        table: labels of the recordings.
        ecg_names: names of the two ECGs of a comparison, such as ("previous ECG", "recent ECG").
        seed: random seed.
        per_ecg: largest mean number of questions per recording, `QUESTIONS_PER_ECG` by default. Templates with few
            questions keep all of them.
        per_template: maximum number of questions of a template.

    Yields:
        Dicts of `rows` (one or two numbers of recordings), `question_type`, `attribute_type`, `template_id`,
        `question`, `answer` (names of findings, "yes", "no", or "none"), `attribute` (findings in the question) and
        `unit`, the number of these findings in their template.
    """
    templates = [template for template in _templates(table, seed) if template.total]
    limit = min(_limit(templates, (per_ecg or QUESTIONS_PER_ECG) * len(table)), per_template or np.inf)
    for template in templates:
        yield from _questions(table, template, ecg_names, seed, limit)


def label_conversations(
    builder: ElmDatasetBuilder, source: str, table: LabelTable, ecg_names: tuple[str, str]
) -> Iterator[dict]:
    """
    Draw questions as `label_questions` does, and turn them into conversations as listed by a dataset script.

    Args:
        builder: the dataset script, with the seed and the numbers of questions in its configuration.
        source: name of the dataset with the recordings.
        table, ecg_names: see `label_questions`.
    """
    config = builder.config
    for question in label_questions(
        table, ecg_names, config.seed, config.questions_per_ecg, config.questions_per_template
    ):
        rows, unit = question.pop("rows"), question.pop("unit")
        recordings = [table.recording_ids[row] for row in rows]
        split = table.split[rows[0]]
        yield question | {
            "conversation_id": "-".join([builder.name, source, str(question["template_id"]), str(unit), *recordings]),
            "recording_ids": recordings,
            "recording_sources": [source] * len(recordings),
            "messages": ecg_messages(len(recordings), question["question"], ", ".join(question["answer"])),
            "stratum": f"{question['question_type']}: {question['answer'][0]}",
            "split": None if split < 0 else SPLITS[split],
        }


def _limit(templates: list[_Template], wanted: int) -> float:
    """The maximum number of questions of a template that gives a total number of questions."""
    totals = [template.total for template in templates]
    return _largest(lambda limit: sum(min(total, limit) for total in totals), wanted)


def _largest(total: Callable[[float], int], wanted: float) -> float:
    """The largest limit whose total is not greater than wanted; infinity if there is no need for a limit."""
    if total(np.inf) <= wanted:
        return np.inf
    low, high = 0, int(wanted) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) <= wanted else (low, middle)
    return low


def _templates(table: LabelTable, seed: int) -> Iterator[_Template]:
    for topic in table.topics:
        for kind, units in _units(table, topic).items():
            kept, available = [], []
            for unit in units:
                sizes = _cell_sizes(table, unit, kind, seed)
                numbers = {split: sum(unit.sizes(of_split, np.inf)) for split, of_split in sizes.items()}
                if sum(numbers.values()):
                    kept.append(unit)
                    available.append(numbers)
            yield _Template(topic, kind, kept, available)


def _units(table: LabelTable, topic: Topic) -> dict[int, list[_Unit]]:
    """The units of each kind of template of a topic, which may be empty."""
    known = table.known(topic)
    present = {label: table.present(label) & known for label in topic.labels}
    certain = {label: table.absent(label) & known for label in topic.labels}
    # if only one of the findings is possible, the others are absent, also those with overlapping names
    absent = {label: known & ~present[label] for label in topic.labels} if topic.exclusive else certain
    labels = [label for label in topic.labels if present[label].sum() >= MIN_RECORDINGS]
    units = {VERIFY: [_verify(label, present[label], certain[label]) for label in labels]}
    if len(labels) > 1:
        units[CHOOSE] = [_choose(pair, present, absent) for pair in combinations(labels, 2)]
        listed = {label: present[label] | absent[label] | table.covered(label, topic) for label in topic.labels}
        answers = _grouped(topic.labels, present, np.flatnonzero(known & np.all([*listed.values()], axis=0)))
        if topic.exclusive:
            units[CHOOSE_ALL] = [_query(tuple(labels), answers)]
        units[QUERY] = [_query((), answers)]
    if not len(table.pairs):
        return units
    units |= {NEW: [], GONE: [], BOTH: []}
    for label in labels:
        for kind in (NEW, GONE, BOTH):
            unit = _compare(label, kind, table.pairs, present[label], certain[label])
            units[kind] += [] if unit is None else [unit]
    if len(labels) > 1 and not topic.exclusive:
        for kind in (WHAT_IS_NEW, WHAT_IS_GONE):
            units[kind] = [_query((), _pair_answers(topic, kind, table.pairs, present, absent, listed))]
    return units


def _verify(label: str, present: np.ndarray, absent: np.ndarray) -> _Unit:
    def cells(rng: np.random.Generator) -> _Cells:
        return [(["yes"], np.flatnonzero(present)), (["no"], np.flatnonzero(absent))]

    return _Unit((label,), cells, _equal_sizes)


def _choose(pair: tuple[str, str], present: dict, absent: dict) -> _Unit:
    first, second = pair

    def cells(rng: np.random.Generator) -> _Cells:
        masks = (
            ([first], present[first] & absent[second]),
            ([second], present[second] & absent[first]),
            ([], absent[first] & absent[second]),
            ([first, second], present[first] & present[second]),
        )
        return [(_names(labels), np.flatnonzero(mask)) for labels, mask in masks]

    return _Unit(pair, cells, _choose_sizes)


def _query(labels: tuple[str, ...], answers: dict[tuple[str, ...], np.ndarray]) -> _Unit:
    def cells(rng: np.random.Generator) -> _Cells:
        return [(_names(found), rows) for found, rows in answers.items()]

    return _Unit(labels, cells, _capped_sizes)


def _compare(label: str, kind: int, pairs: np.ndarray, present: np.ndarray, absent: np.ndarray) -> _Unit | None:
    """A question whether a finding is new, gone, or in both ECGs. The answer "no" is drawn from all other cases alike."""
    first, second = pairs.T
    cases = {
        NEW: absent[first] & present[second],
        GONE: present[first] & absent[second],
        BOTH: present[first] & present[second],
        None: absent[first] & absent[second],
    }
    right = np.flatnonzero(cases.pop(kind))
    if len(right) < MIN_PAIRS:
        return None

    def cells(rng: np.random.Generator) -> _Cells:
        wrong = [rng.permutation(np.flatnonzero(case)) for case in cases.values()]
        # in turn, so that the first ones are from all cases in equal shares, as far as there are enough
        place = np.concatenate([np.arange(len(rows)) for rows in wrong])
        return [(["yes"], right), (["no"], np.concatenate(wrong)[np.argsort(place, kind="stable")])]

    return _Unit((label,), cells, _equal_sizes)


def _pair_answers(
    topic: Topic, kind: int, pairs: np.ndarray, present: dict, absent: dict, listed: dict
) -> dict[tuple, np.ndarray]:
    """
    The pairs with each answer to the question which labels of a topic are new, or gone, in the second ECG.

    Args:
        listed: whether each recording can be asked which labels it has, as far as each label is concerned.
    """
    first, second = pairs.T if kind == WHAT_IS_NEW else pairs.T[::-1]
    known = np.ones(len(pairs), dtype=bool)
    found = {}
    for label in topic.labels:
        known &= listed[label][first] & listed[label][second]
        # a label that is new only by another name is not certainly new
        known &= present[label][first] | absent[label][first] | ~present[label][second]
        found[label] = absent[label][first] & present[label][second]
    return _grouped(topic.labels, found, np.flatnonzero(known))


def _grouped(labels: tuple[str, ...], found: dict, rows: np.ndarray) -> dict[tuple, np.ndarray]:
    """Rows by the labels that are found in them, without rows with more than `MAX_ITEMS`."""
    groups = defaultdict(list)
    columns = np.stack([found[label][rows] for label in labels], axis=1)
    for row, where in zip(rows.tolist(), columns):
        numbers = tuple(np.flatnonzero(where).tolist())
        if len(numbers) <= MAX_ITEMS:
            groups[numbers].append(row)
    return {tuple(labels[number] for number in key): np.array(groups[key]) for key in sorted(groups)}


def _names(labels: tuple[str, ...] | list[str]) -> list[str]:
    return [answer_name(label) for label in labels] or ["none"]


def _equal_sizes(available: list[int], limit: float) -> list[int]:
    """The same number of questions from each cell."""
    number = int(min(*available, limit // len(available)))
    return [number] * len(available)


def _choose_sizes(available: list[int], limit: float) -> list[int]:
    """The same number of questions for either finding, and up to half of it for none and for both."""
    number = int(min(available[0], available[1], limit // 3))
    return [number, number, min(available[2], number // 2), min(available[3], number // 2)]


def _capped_sizes(available: list[int], limit: float) -> list[int]:
    """As many questions as there are, but no answer has more than `MAX_SHARE` of them, or than its equal share."""
    cells = sum(number > 0 for number in available)
    if cells < 2:
        return [0] * len(available)
    share, counts = max(MAX_SHARE, 1 / cells), np.array(available)
    for cap in sorted({*available}, reverse=True):
        if cap <= share * np.minimum(counts, cap).sum():
            break
    else:
        cap = 0
    cap = min(cap, _largest(lambda cap: int(np.minimum(counts, cap).sum()), limit))
    return np.minimum(counts, cap).astype(int).tolist()


def _generator(seed: int, template_id: int, labels: tuple[str, ...]) -> np.random.Generator:
    return np.random.default_rng([seed, template_id, zlib.crc32("|".join(labels).encode())])


def _splits_of(table: LabelTable, kind: int) -> np.ndarray:
    """The official split of each recording, or of each pair for a comparison."""
    return table.split if kind < NEW else table.split[table.pairs[:, 0]]


def _cell_sizes(table: LabelTable, unit: _Unit, kind: int, seed: int) -> dict[int, list[int]]:
    """The number of recordings in each cell, by official split."""
    split, cells = _splits_of(table, kind), unit.cells(_generator(seed, kind, unit.labels))
    counts = [np.bincount(split[rows] + 1, minlength=len(SPLITS) + 1) for _, rows in cells]
    return {number - 1: [int(count[number]) for count in counts] for number in range(len(SPLITS) + 1)}


def _questions(
    table: LabelTable, template: _Template, ecg_names: tuple[str, str], seed: int, limit: float
) -> Iterator[dict]:
    per_unit = _largest(lambda most: sum(min(sum(one.values()), most) for one in template.available), limit)
    split = _splits_of(table, template.kind)
    for number, (unit, available) in enumerate(zip(template.units, template.available)):
        rng = _generator(seed, template.id, unit.labels)
        cells, total = unit.cells(rng), sum(available.values())
        for part, of_part in available.items():
            rows = [found[split[found] == part] for _, found in cells]
            sizes = unit.sizes([len(found) for found in rows], of_part * min(1, per_unit / total))
            for (answer, _), found, size in zip(cells, rows, sizes):
                if template.kind not in (NEW, GONE, BOTH) or answer == ["yes"]:
                    found = rng.permutation(found)
                for row in found[:size].tolist():
                    yield _question(table, template, unit, number, row, answer, ecg_names, rng)


def _question(
    table: LabelTable,
    template: _Template,
    unit: _Unit,
    number: int,
    row: int,
    answer: list[str],
    ecg_names: tuple[str, str],
    rng: np.random.Generator,
) -> dict:
    topic, kind = template.topic, template.kind
    texts = wordings(topic.name, kind)
    options = [phrase(label) for label in unit.labels]
    if len(options) > 1:
        options = [options[place] for place in rng.permutation(len(options))]
    fields = {
        "x": options[0] if options else "",
        "options": " or ".join([", ".join(options[:-1]), options[-1]]) if len(options) > 1 else "",
        "first": ecg_names[0],
        "second": ecg_names[1],
    }
    return {
        "rows": (row,) if kind < NEW else tuple(table.pairs[row].tolist()),
        "question_type": QUESTION_TYPES[kind],
        "attribute_type": topic.attribute_type,
        "template_id": template.id,
        "question": texts[rng.integers(len(texts))].format(**fields),
        "answer": answer,
        "attribute": [answer_name(label) for label in unit.labels],
        "unit": number,
    }
