"""Scores and signal reliance by subgroups of patients and ECGs: sex, age, device, site, noise, heart rate, findings."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import pandas as pd

from elm_hf.data.tables import load_records
from elm_hf.ecg.claim_checks import measure_for_claims
from elm_hf.ecg.simulated_findings import NOISES
from elm_hf.modeling.ecg_measurements import noise_levels
from elm_hf.modeling.ecg_quality import signal_quality
from elm_hf.scoring.intervals import (
    CONFIDENCE,
    Support,
    holm,
    korn_graubard_interval,
    p_value_of,
    resampled_variance,
)
from elm_hf.scoring.markdown import p_cell
from elm_hf.scoring.predictions import EcgsOf
from elm_hf.scoring.reliance import reliance_by_type
from elm_hf.scoring.scores import SHARES, SUMMED, ScoreBook, score_entry
from elm_hf.utils.reports import METRIC_OF_KIND


# A group of fewer patients, or of fewer answers, is not scored.
LEAST_GROUP = 20
# Columns of the records that groups are made of; those that a dataset does not have are left out.
COLUMNS = ("age", "sex", "labels", "source", "device", "site", "noise")
AGES = ((18, "under 18"), (40, "18 to 39"), (60, "40 to 59"), (75, "60 to 74"), (90, "75 to 89"))
OLDEST = "90 and over"
RATES = ((60, "below 60 per minute"), (100, "60 to 100 per minute"))
FASTEST = "above 100 per minute"
NOISE_LABELS = frozenset({*NOISES[1:], "burst noise", "baseline wander", "electrodes problems", "electrode problems"})
_NOISE_NAMES = ("least noise", "medium noise", "most noise")
_MOST_LABELS = 4
# More ECGs are not measured, which would take longer than a few minutes.
MOST_MEASURED = 5000
SEVERAL, UNKNOWN = "several", "unknown"
# What the records table says of each ECG of a question.
FactsOf = Callable[[str], Sequence[Mapping]]


def record_facts(dataset: str | PathLike, numbers: Collection[int]) -> dict[int, dict]:
    """The columns `COLUMNS` that a dataset has, of the records with these numbers."""
    table = load_records(dataset)
    names = [name for name in COLUMNS if name in table.column_names]
    ordered = sorted(numbers)
    if not names or not ordered:
        return {number: {} for number in ordered}
    facts = table.select_columns(names).with_format(None).select(ordered)[:]
    return {number: {name: facts[name][place] for name in names} for place, number in enumerate(ordered)}


def report_subgroups(
    book: ScoreBook, facts_of: FactsOf, ecgs_of: EcgsOf | None = None, measured: dict[str, Mapping] | None = None
) -> dict | None:
    """
    Scores and signal reliance of each group, its difference from the rest of the same attribute, and the worst group.

    Args:
        book: scores with the ECG and of controls.
        facts_of: gives what is known of each ECG of a question by its id, of [`record_facts`].
        ecgs_of: gives the ECGs of a question; without it heart rate, noise and signal problems are left out.
        measured: features of ECGs that were measured before, by `record_id`; new ones are added.

    Returns:
        `subgroups` of `report.json` (docs/evaluation.md has its schema); None without answers about ECGs.
    """
    table = book.questions.table
    about = np.flatnonzero(table["record_ids"].map(len))
    if "ecg" not in book.conditions or not len(about):
        return None
    facts = _Facts(table, facts_of, ecgs_of, {} if measured is None else measured)
    attributes = facts.attributes(about)
    kinds = {}
    for kind, metric in METRIC_OF_KIND.items():
        rows = about[(table["kind"].iloc[about] == kind).to_numpy()]
        if len(rows):
            kinds[kind] = _of_kind(book, rows, metric, attributes)
    comparisons = _correct(kinds)
    for found in kinds.values():
        found["sentence"] = worst_sentence(found, comparisons)
    return {"least": LEAST_GROUP, "not_measured": facts.not_measured, "comparisons": comparisons, "kinds": kinds}


def age_band(age: float | None) -> str | None:
    """The age band; ages from 90 on are one, whatever number a dataset writes for them (PTB-XL: 300)."""
    if age is None or not age >= 0:
        return None
    return next((name for limit, name in AGES if age < limit), OLDEST)


def rate_band(heart_rate: float) -> str | None:
    """The band of a heart rate per minute."""
    if not np.isfinite(heart_rate):
        return None
    if heart_rate < RATES[0][0]:
        return RATES[0][1]
    return RATES[1][1] if heart_rate <= RATES[1][0] else FASTEST


def noise_uv(ecg: np.ndarray) -> float:
    """The noise in microvolt of an ECG `(leads, samples)` in mV: the median of its leads (see [`noise_levels`])."""
    levels = noise_levels(ecg)
    return 1000 * float(np.nanmedian(levels)) if np.isfinite(levels).any() else float("nan")


class _Facts:
    """The group of each question, for each attribute."""

    def __init__(self, table: pd.DataFrame, facts_of: FactsOf, ecgs_of: EcgsOf | None, measured: dict[str, Mapping]):
        self._table, self._facts_of, self._ecgs_of, self._measured = table, facts_of, ecgs_of, measured
        self.not_measured = 0

    def attributes(self, rows: np.ndarray) -> dict[str, pd.Series]:
        """Attribute to the group of each of these rows: `SEVERAL` if its ECGs are of different groups, `UNKNOWN` if not known."""
        names = {row: tuple(self._table["record_ids"].iloc[row]) for row in rows}
        of_record: dict[str, dict[str, str | None]] = {}
        for row in rows:
            for name, facts in zip(names[row], self._facts_of(self._table.index[row])):
                if name not in of_record:
                    of_record[name] = _known_groups(facts)
        self._measure(names, of_record)
        found = {}
        for attribute in dict.fromkeys(key for groups in of_record.values() for key in groups):
            groups = [_one_group([of_record[name].get(attribute) for name in names[row]]) for row in rows]
            found[attribute] = pd.Series(groups, index=rows)
        return {name: groups for name, groups in found.items() if groups.nunique() > 1}

    def _measure(self, names: Mapping[int, tuple[str, ...]], of_record: dict[str, dict]) -> None:
        """Adds heart rate, noise and signal problems."""
        if self._ecgs_of is None:
            return
        if len(of_record) > MOST_MEASURED:
            self.not_measured = len(of_record)
            return
        noise: dict[str, float] = {}
        for row, those in names.items():
            if set(those) <= noise.keys():
                continue
            ecgs, sampling_rate = self._ecgs_of(self._table.index[row])
            for name, ecg in zip(those, ecgs):
                if name in noise:
                    continue
                if name not in self._measured:
                    self._measured[name] = measure_for_claims(ecg, sampling_rate)
                of_record[name]["heart rate"] = rate_band(self._measured[name]["heart_rate"])
                problems = signal_quality(ecg, sampling_rate)
                of_record[name]["signal"] = "doubtful signal" if problems else "no problem found"
                noise[name] = noise_uv(np.asarray(ecg))
        for name, group in _thirds(noise).items():
            of_record[name]["noise measured"] = group


def _known_groups(facts: Mapping) -> dict[str, str | None]:
    """The groups of an ECG that follow from the records table."""
    groups: dict[str, str | None] = {}
    if "sex" in facts:
        groups["sex"] = facts["sex"] or None
    if "age" in facts:
        groups["age"] = age_band(facts["age"])
    for name in ("source", "device", "site"):
        if name in facts:
            groups[name] = str(facts[name]).strip() or None if facts[name] is not None else None
    labels = facts.get("labels")
    if labels is not None:
        found = {label for label in labels if label.lower() not in NOISE_LABELS}
        number = len(found)
        groups["findings"] = f"{_MOST_LABELS} or more" if number >= _MOST_LABELS else str(number)
        if "noise" not in facts:
            groups["noise stated"] = "noise" if len(found) < len(set(labels)) else "no noise"
    if "noise" in facts:
        value = facts["noise"]
        groups["noise stated"] = "noise" if _says_noise(value) else "no noise"
    return groups


def _says_noise(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() not in ("", "none", "no", "false", "0", "nan")
    return bool(value) and value == value  # not NaN


def _thirds(noise: Mapping[str, float]) -> dict[str, str | None]:
    """The third of the ECGs that each is in, by its noise, with the limits in microvolt."""
    known = [value for value in noise.values() if np.isfinite(value)]
    if not known:
        return dict.fromkeys(noise)
    low, high = np.quantile(known, [1 / 3, 2 / 3])
    limits = (f"up to {low:.1f} µV", f"{low:.1f} to {high:.1f} µV", f"from {high:.1f} µV")
    names = [f"{name} ({limit})" for name, limit in zip(_NOISE_NAMES, limits)]
    return {
        name: names[int(value > low) + int(value > high)] if np.isfinite(value) else None
        for name, value in noise.items()
    }


def _one_group(groups: Iterable[str | None]) -> str:
    found = set(groups)
    if len(found) > 1:
        return SEVERAL
    return found.pop() or UNKNOWN


def _of_kind(book: ScoreBook, rows: np.ndarray, metric: str, attributes: Mapping[str, pd.Series]) -> dict:
    """The groups of the questions of one kind."""
    values = book.values["ecg"][:, SUMMED.index(metric)]
    found: dict[str, dict] = {}
    to_rely = {}
    for attribute, groups in attributes.items():
        of_rows = groups.loc[rows]
        counts = Counter(of_rows)
        members = {name: rows[(of_rows == name).to_numpy()] for name in sorted(counts, key=_order)}
        left_out = {name: len(members.pop(name)) for name in (SEVERAL, UNKNOWN) if name in members}
        large = [name for name, those in members.items() if book.bootstrap.least(those) >= LEAST_GROUP]
        entries = {}
        for name, those in members.items():
            entries[name] = {"answers": len(those), "patients": book.bootstrap.count_patients(those)}
            if name not in large:
                entries[name]["note"] = f"fewer than {LEAST_GROUP} patients or answers: not scored"
                continue
            entries[name]["score"] = _score(book, values, those, metric)
            rest = np.concatenate([np.array([], int), *(one for other, one in members.items() if other != name)])
            if len(rest) and book.bootstrap.least(rest) >= LEAST_GROUP:
                entries[name]["difference"] = GroupDifference.of(book, values, those, rest, metric).entry()
            to_rely[attribute, name] = those
        found[attribute] = {"groups": entries, "left_out": left_out}
    reliance = reliance_by_type(book, to_rely)
    for (attribute, name), entry in reliance.items():
        found[attribute]["groups"][name]["reliance"] = entry
    return {"metric": metric, "attributes": found}


def _order(name: str) -> tuple:
    """Ages and rates from low to high, names in alphabetical order."""
    bands = [*(band for _, band in AGES), OLDEST, *(band for _, band in RATES), FASTEST]
    place = bands.index(name) if name in bands else len(bands)
    noise = next((number for number, one in enumerate(_NOISE_NAMES) if name.startswith(one)), len(_NOISE_NAMES))
    return place, noise, name


def _samples(book: ScoreBook, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean of the values of these rows, then in every resample, `(1 + num_resamples,)`."""
    return book.bootstrap.means(values[rows, None], rows)[:, 0]


def _score(book: ScoreBook, values: np.ndarray, rows: np.ndarray, metric: str) -> dict:
    return score_entry(_samples(book, values, rows), Support(book.bootstrap.least(rows), len(rows), metric in SHARES))


@dataclass(frozen=True)
class GroupDifference:
    """
    The mean score of a group minus that of the rest.

    The interval combines those of both (Newcombe 1998, Statistics in Medicine 17:873, method 10, with the correlation that
    patients with ECGs in both bring); the p-value is below 0.05 exactly where the 95 % interval leaves out 0.

    Attributes:
        scores: of the group and of the rest.
        variances: of both.
        supports: what both rest on.
        correlation: between the two.
    """

    scores: tuple[float, float]
    variances: tuple[float, float]
    supports: tuple[Support, Support]
    correlation: float

    @classmethod
    def of(
        cls, book: ScoreBook, values: np.ndarray, group: np.ndarray, rest: np.ndarray, metric: str
    ) -> "GroupDifference":
        """
        Args:
            book: for its bootstrap.
            values: scores of all questions `(questions,)`, between 0 and 1.
            group, rest: numbers of the questions of both.
            metric: of the scores.
        """
        samples = [_samples(book, values, rows) for rows in (group, rest)]
        supports = [Support(book.bootstrap.least(rows), len(rows), metric in SHARES) for rows in (group, rest)]
        variances = [resampled_variance(one[1:], support) for one, support in zip(samples, supports)]
        correlation = 0.0
        if min(variances) > 0:
            defined = np.isfinite(samples[0][1:]) & np.isfinite(samples[1][1:])
            correlation = float(np.corrcoef(samples[0][1:][defined], samples[1][1:][defined])[0, 1])
        scores = [min(max(float(one[0]), 0.0), 1.0) for one in samples]
        return cls(tuple(scores), tuple(variances), tuple(supports), correlation)

    @property
    def value(self) -> float:
        return self.scores[0] - self.scores[1]

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The interval of the difference, between -1 and 1."""
        (low, high), (rest_low, rest_high) = (
            korn_graubard_interval(score, variance, support, confidence)
            for score, variance, support in zip(self.scores, self.variances, self.supports)
        )
        group, rest = self.scores
        below, above = self._combined(group - low, rest_high - rest), self._combined(high - group, rest - rest_low)
        return max(self.value - below, -1.0), min(self.value + above, 1.0)

    def _combined(self, of_group: float, of_rest: float) -> float:
        return max(of_group**2 + of_rest**2 - 2 * self.correlation * of_group * of_rest, 0.0) ** 0.5

    def entry(self) -> dict:
        """As in `report.json`, without the correction of the p-value."""

        def leaves_out_zero(confidence: float) -> bool:
            low, high = self.interval(confidence)
            return low > 0 or high < 0

        low, high = self.interval()
        return {"score": self.value, "low": low, "high": high, "p_value": p_value_of(leaves_out_zero)}


def _correct(kinds: Mapping[str, dict]) -> int:
    """Adds p-values that are corrected for all differences of the report (Holm), and returns the number of these."""
    differences = {
        (kind, attribute, name): entry["difference"]
        for kind, found in kinds.items()
        for attribute, one in found["attributes"].items()
        for name, entry in one["groups"].items()
        if "difference" in entry
    }
    corrected = holm({key: entry["p_value"] for key, entry in differences.items()})
    for key, entry in differences.items():
        entry["p_value_holm"] = corrected[key]
    return len(differences)


def worst_sentence(found: dict, comparisons: int) -> str:
    """
    The worst group in a sentence: the one that is furthest below the rest, of those that are below it beyond chance if there
    are any.

    Args:
        found: what is reported of one kind of answers.
        comparisons: number of differences of the report.
    """
    tested = [
        (attribute, name, entry)
        for attribute, one in found["attributes"].items()
        for name, entry in one["groups"].items()
        if "difference" in entry
    ]
    if not tested:
        return (
            f"No subgroups were compared: it takes two groups of {LEAST_GROUP} patients, and as many answers, or more."
        )
    below = [
        one
        for one in tested
        if one[2]["difference"]["p_value_holm"] < 1 - CONFIDENCE and one[2]["difference"]["score"] < 0
    ]
    attribute, name, entry = min(below or tested, key=lambda one: one[2]["difference"]["score"])
    difference = entry["difference"]
    figures = (
        f"{attribute} {name} ({found['metric']} {entry['score']['score']:.3f}, {difference['score']:+.3f} "
        f"[{difference['low']:.3f}, {difference['high']:.3f}] against the rest, p {p_cell(difference['p_value_holm'])} "
        f"corrected for {comparisons} comparisons, {entry['patients']} patients)"
    )
    if below:
        number = len(below)
        more = f" {number} groups are below the rest beyond chance." if number > 1 else ""
        return f"The worst subgroup is {figures}.{more}"
    return f"No subgroup is below the rest beyond chance; the lowest difference is that of {figures}."
