"""An index of similar ECGs (FAISS) over the training patients of a fold, and the vectors that ECGs are compared by."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedConfig

from elm_hf.data.ecg_table import EcgTable
from elm_hf.data.patients import patients_of, record_patients
from elm_hf.data.seen_patients import Stage, check_not_seen, read_stages, stages_before
from elm_hf.data.tables import load_records
from elm_hf.ecg.normal_ranges import feature_text
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import FEATURES, GENERAL_FEATURES, NOISE_FEATURES, measure_ecg
from elm_hf.utils.files import check_free
from elm_hf.utils.hub import check_name


BATCH = 32
# Features are clipped at this many standard deviations: one wrong measurement would outweigh all others.
MOST_DEVIATIONS = 5


@dataclass
class IndexSettings:
    """
    How an index was made; `index.json` in its folder.

    Args:
        dataset, fold: source of the training patients in it.
        by: `"features"` or `"encoder"`.
        encoder: for `"encoder"`, the checkpoint that made the vectors.
        records, patients: number of records and patients in it.
        left_out: number of records of training patients that are not in it, by reason.
        reports, feature_texts: whether its records have reports, and features in words.
        mean, deviation: for `"features"`, mean and standard deviation of each feature over the records.
        versions: versions of the libraries that made it.
    """

    dataset: str
    fold: str
    by: str
    encoder: str | None
    records: int
    patients: int
    left_out: dict[str, int]
    reports: bool
    feature_texts: bool
    mean: list[float] | None
    deviation: list[float] | None
    versions: dict[str, str]


class EcgIndex:
    """
    An index as `build_index` made it.

    Attributes:
        settings: how it was made.
        entries: a row for each record: `source`, `record_id`, `patient_id`, `report`, `features` (in words, or None).

    Raises:
        FileNotFoundError: the folder has no index.
        ImportError: FAISS is not installed.
    """

    def __init__(self, folder: str | PathLike):
        _check_faiss()
        folder = Path(folder)
        self.settings = _read_settings(folder)
        self.entries = Dataset(pq.read_table(folder / "records.parquet"))
        self.entries.load_faiss_index("vector", folder / "vectors.faiss")

    def vectors(self, rows: Sequence[int]) -> np.ndarray:
        """The vectors of these entries, `(rows, size)`."""
        index = self.entries.get_index("vector").faiss_index
        return np.stack([index.reconstruct(int(row)) for row in rows])

    def embed(self, ecgs: Sequence[np.ndarray], sampling_rate: float) -> np.ndarray:
        """
        The vectors of other ECGs, `(ECGs, size)`.

        Args:
            ecgs: each `(12, samples)` in mV, NaN where a lead is absent.
            sampling_rate: in Hz.
        """
        if self.settings.by == "encoder":
            return EncoderVectors(self.settings.encoder)(ecgs, sampling_rate)
        measured = [measure_ecg(ecg, sampling_rate) for ecg in ecgs]
        return _standardized(feature_matrix(measured), self.settings.mean, self.settings.deviation)

    def search(self, vectors: np.ndarray, number: int) -> np.ndarray:
        """The `number` nearest entries of each vector, nearest first, `(vectors, number)`."""
        found = self.entries.search_batch("vector", vectors.astype(np.float32), number)
        return np.asarray(found.total_indices)


def _read_settings(folder: Path) -> IndexSettings:
    if not (folder / "index.json").is_file():
        raise FileNotFoundError(f"{folder}: no index of ECGs (index.json); make one with elm-hf index")
    return IndexSettings(**json.loads((folder / "index.json").read_text(encoding="utf-8")))


def stages_of_index(folder: str | PathLike) -> list[Stage]:
    """
    The stages of training of the encoder that finds similar ECGs in an index; none for an index by features.

    Raises:
        FileNotFoundError: the folder has no index, or its encoder is no longer there.
    """
    encoder = _read_settings(Path(folder)).encoder
    stages = [] if encoder is None else stages_before(encoder)
    return [replace(stage, kind=f"{stage.kind} of the index's encoder") for stage in stages]


class EncoderVectors:
    """
    Vectors of ECGs by an encoder: the mean of its output over the positions, scaled to length 1, so that the nearest vector
    is the one with the highest cosine.

    Args:
        checkpoint: an ECG encoder, or an ELM, of which the encoder is used (or the projector, if it has no encoder).

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is another kind of model, or an ELM that reads ECGs as symbols.
    """

    def __init__(self, checkpoint: str | PathLike):
        check_name(str(checkpoint))
        config, _ = PreTrainedConfig.get_config_dict(checkpoint)
        is_elm = config.get("model_type") == "elm" or (Path(checkpoint) / "adapter_config.json").is_file()
        self._encode = _elm_encoder(checkpoint) if is_elm else _ecg_encoder(checkpoint)

    @torch.inference_mode()
    def __call__(self, ecgs: Sequence[np.ndarray], sampling_rate: float) -> np.ndarray:
        """
        Args:
            ecgs: each `(12, samples)` in mV.
            sampling_rate: in Hz.

        Returns:
            `(ECGs, size)` float32.
        """
        means = []
        for start in tqdm(range(0, len(ecgs), BATCH), desc="encoding", unit="batch", disable=None):
            encoded = self._encode(list(ecgs[start : start + BATCH]), sampling_rate)
            means.append(encoded.float().flatten(1, -2).mean(dim=1))
        return torch.nn.functional.normalize(torch.cat(means), dim=-1).cpu().numpy()


def _elm_encoder(checkpoint: str | PathLike):
    from elm_hf.checkpoints.load import load_checkpoint

    model, processor = load_checkpoint(checkpoint)
    if model.config.representation == "symbol":
        raise ValueError(
            f"{checkpoint}: reads ECGs as symbols and has no encoder; give another checkpoint as the encoder, or index by features"
        )

    def encode(ecgs: list[np.ndarray], sampling_rate: float) -> torch.Tensor:
        text = [processor.ecg_token] * len(ecgs)
        inputs = processor(
            text, ecg=ecgs, sampling_rate=sampling_rate, lead_names=[LEADS] * len(ecgs), return_tensors="pt"
        )
        of_text = ("input_ids", "attention_mask")
        outputs = model.get_ecg_features(
            **{name: values.to(model.device) for name, values in inputs.items() if name not in of_text}
        )
        tokens = outputs.pooler_output if outputs.last_hidden_state is None else outputs.last_hidden_state
        if not model.config.reads_both:
            return tokens
        if outputs.last_hidden_state is not None:
            return model.model.encoder.split(tokens)[0]  # of the signal
        return tokens[:, : model.config.towers[0].num_ecg_tokens]

    return encode


def _ecg_encoder(checkpoint: str | PathLike):
    from elm_hf.checkpoints.encoder import load_encoder
    from elm_hf.checkpoints.load import load_feature_extractor
    from elm_hf.modeling.configuration_elm import ECG_ENCODER_TYPES

    encoder = load_encoder(str(checkpoint)).eval()
    if encoder.config.model_type not in ECG_ENCODER_TYPES:
        raise ValueError(
            f'{checkpoint}: a "{encoder.config.model_type}" is neither an ECG encoder ({", ".join(ECG_ENCODER_TYPES)}) nor an ELM'
        )
    feature_extractor = load_feature_extractor(checkpoint)

    def encode(ecgs: list[np.ndarray], sampling_rate: float) -> torch.Tensor:
        inputs = feature_extractor(
            ecgs, sampling_rate=sampling_rate, lead_names=[LEADS] * len(ecgs), return_tensors="pt"
        )
        return encoder(**inputs).last_hidden_state

    return encode


def build_index(
    dataset: str | PathLike,
    output: str | PathLike,
    by: str = "features",
    encoder: str | PathLike | None = None,
    fold: int | str = 1,
    feature_texts: bool | None = None,
    num_proc: int = 1,
) -> IndexSettings:
    """
    Makes an index of the records of a fold's training patients. No record of another patient is read.

    Records without a report are omitted, unless no record has one; an index by features also omits records in which nothing
    can be measured. Features are standardised over the index (a missing one counts as the mean), and general features have
    as much weight as those of the leads.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        output: folder of the index.
        by: `"features"` or `"encoder"`.
        encoder: for `"encoder"`, the checkpoint of an ECG encoder or of an ELM.
        fold: 1 to 5 or `"official"`.
        feature_texts: whether to keep each record's features in words as well; by default only in an index by features,
            since they have to be measured.
        num_proc: number of processes that measure.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: another `by`, a missing encoder or one that was trained on the fold's validation or test patients,
            or no usable record.
        ImportError: FAISS is not installed.
    """
    if by not in ("features", "encoder") or (by == "encoder") != (encoder is not None):
        raise ValueError(
            f'by (--by) is "features", or "encoder" with an encoder (--encoder); got "{by}" with {encoder}'
        )
    _check_faiss()
    output = Path(output)
    check_free(output)
    encode = None if encoder is None else EncoderVectors(encoder)  # a wrong one is refused at once
    if encoder is not None:
        check_not_seen(
            encoder,
            read_stages(encoder),
            patients_of(dataset, fold, held_out=True),
            f"validation and test patients of fold {fold} of {dataset}",
            "use an encoder that was trained on this fold's training patients",
        )
    records = load_records(dataset)
    rows, left_out, has_reports = _training_records(dataset, records, fold)
    measured, mean, deviation = None, None, None
    if by == "features" or feature_texts:
        measured = _measured_features(records, rows, num_proc)
    if by == "features":
        is_found = np.isfinite(feature_matrix(measured)).any(axis=1)
        left_out["nothing could be measured"] = int((~is_found).sum())
        rows, measured = ([one for one, keep in zip(column, is_found) if keep] for column in (rows, measured))
    if not rows:
        raise ValueError(f"{dataset}: fold {fold} has no training records to index (left out: {left_out})")
    if by == "features":
        mean, deviation = _moments(feature_matrix(measured))
        vectors = _standardized(feature_matrix(measured), mean, deviation)
    else:
        table = EcgTable(records)
        vectors = encode(_SelectedEcgs(table, rows), records[0]["sampling_rate"])
    entries = _entries(records, rows, measured)
    settings = IndexSettings(
        dataset=str(dataset),
        fold=str(fold),
        by=by,
        encoder=None if encoder is None else str(encoder),
        records=len(entries),
        patients=len(set(zip(entries["source"], entries["patient_id"]))),
        left_out=left_out,
        reports=has_reports,
        feature_texts=measured is not None,
        mean=mean,
        deviation=deviation,
        versions={name: version(name) for name in ("elm-hf", "datasets", "faiss-cpu")},
    )
    _save(entries, vectors, settings, output)
    return settings


def _training_records(
    dataset: str | PathLike, records: Dataset, fold: int | str
) -> tuple[list[int], dict[str, int], bool]:
    """Rows of the fold's training patients, number of omitted ones by reason, and whether they have reports."""
    patients = patients_of(dataset, fold, held_out=False)
    reports = records.select_columns(["report"])[:]["report"]
    rows = [row for row, owner in enumerate(record_patients(records).to_pylist()) if owner in patients]
    has_reports = any(reports[row] for row in rows)
    usable = [row for row in rows if reports[row] or not has_reports]
    return usable, {"no report": len(rows) - len(usable)}, has_reports


def _entries(records: Dataset, rows: list[int], measured: list[dict] | None) -> Dataset:
    columns = records.select_columns(["source", "record_id", "patient_id", "report", "sex", "age"]).select(rows)[:]
    sexes, ages = columns.pop("sex"), columns.pop("age")
    texts = [None] * len(rows)
    if measured is not None:
        texts = [feature_text(*one) for one in zip(measured, sexes, ages)]
    return Dataset.from_dict(columns | {"features": texts})


def _measured_features(records: Dataset, rows: list[int], num_proc: int) -> list[dict[str, float]]:
    """The features of these records."""
    measure = _MeasureRow(EcgTable(records), records[0]["sampling_rate"])
    processes = num_proc if num_proc > 1 else None
    return Dataset.from_dict({"row": rows}).map(measure, num_proc=processes, desc="measuring")["features"][:]


class _SelectedEcgs(Sequence):
    """Some rows of a table of ECGs, which are read when they are accessed."""

    def __init__(self, table: EcgTable, rows: list[int]):
        self._table, self._rows = table, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice) -> list[np.ndarray]:
        return [self._table[row] for row in self._rows[index]]


class _MeasureRow:
    """Measures the ECG of a row; an object, which can be sent to other processes."""

    def __init__(self, table: EcgTable, sampling_rate: float):
        self.table, self.sampling_rate = table, sampling_rate

    def __call__(self, row: dict) -> dict:
        return {"features": measure_ecg(self.table[row["row"]], self.sampling_rate)}


def _moments(matrix: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each column without its NaN; 0 and 1 for an empty column, 1 where there is no spread."""
    found = np.isfinite(matrix)
    count = np.maximum(found.sum(axis=0), 1)
    mean = np.where(found, matrix, 0).sum(axis=0) / count
    variance = np.where(found, (matrix - mean) ** 2, 0).sum(axis=0) / count
    return mean.tolist(), np.where(variance > 0, np.sqrt(variance), 1.0).tolist()


def _standardized(matrix: np.ndarray, mean: list[float], deviation: list[float]) -> np.ndarray:
    """Features `(ECGs, columns)` as vectors: in standard deviations, with equal weights of lead and of general features."""
    scaled = np.nan_to_num((matrix - np.array(mean)) / np.array(deviation)).clip(-MOST_DEVIATIONS, MOST_DEVIATIONS)
    weights = np.full(matrix.shape[1], np.sqrt(len(GENERAL_FEATURES) / (matrix.shape[1] - len(GENERAL_FEATURES) - 1)))
    general = len(GENERAL_FEATURES) - 1  # the axis is a point on a circle, in the last two columns
    weights[:general] = weights[-2:] = 1.0
    return (scaled * weights).astype(np.float32)


def _save(entries: Dataset, vectors: np.ndarray, settings: IndexSettings, output: Path) -> None:
    """Writes the folder, `index.json` last: a folder without it is not an index."""
    output.mkdir(parents=True, exist_ok=True)
    entries.to_parquet(output / "records.parquet")
    entries.add_faiss_index_from_external_arrays(vectors, "vector")
    entries.save_faiss_index("vector", output / "vectors.faiss")
    (output / "index.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")


def _check_faiss() -> None:
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        raise ImportError('an index of ECGs needs FAISS: pip install "elm-hf[rag]"') from error


def feature_matrix(measured: Sequence[Mapping[str, float]]) -> np.ndarray:
    """
    Return the features of several ECGs as a matrix `(ECGs, columns)` for comparisons: those of the heart, since ECGs with the
    same noise are not similar. The axis is given by its cosine and sine, because 179 and -179 degrees are neighbours. A
    missing feature is NaN.

    Args:
        measured: features of each ECG as returned by `measure_ecg`.
    """
    names = [name for name in FEATURES if name not in NOISE_FEATURES]
    values = np.array([[one.get(name, np.nan) for name in names] for one in measured], dtype=np.float64)
    axis = np.deg2rad(values[:, names.index("axis_deg")])
    others = np.delete(values, names.index("axis_deg"), axis=1)
    return np.column_stack([others, np.cos(axis), np.sin(axis)])
