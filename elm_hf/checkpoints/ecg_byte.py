"""ECG-Byte tokenizers (Han et al. 2024): training on an elm-hf dataset, and reading the published pickles."""

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from itertools import pairwise
from os import PathLike
from pathlib import Path
from time import monotonic

import numpy as np
from datasets import Dataset
from huggingface_hub import ModelCardData
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from elm_hf.checkpoints.card import CardFile
from elm_hf.checkpoints.ecg_byte_voltage import measure_voltage
from elm_hf.checkpoints.plain_pickle import read_plain_pickle
from elm_hf.data.ecg_table import EcgSequence, EcgTable
from elm_hf.data.patients import patients_of, record_patients
from elm_hf.data.seen_patients import SeenPatients, stage_of
from elm_hf.data.tables import load_records
from elm_hf.modeling.tokenization_ecg_byte import BYTE_TOKENS, SYMBOLS, EcgByteTokenizer
from elm_hf.utils.files import check_free, save_atomically


NUM_MEASURED = 200  # maximum number of records on which the figures of the card are measured
PERCENTILES = (1, 99)
MARGIN_MV = 0.5
# Limits for published files: symbols of a token, and seconds for recovering the merges.
MAX_SYMBOLS = 5000
RECOVERY_S = 60
SCALES = ("companded", "published")
# The default scale: QRS complexes of up to 5 mV, and levels of less than 0.1 mV near the baseline.
COMPANDED_RANGE = (-5.0, 5.0)
COMPANDING_MV = 0.35


def train_ecg_byte_tokenizer(
    dataset: str | PathLike,
    num_merges: int,
    output: str | PathLike,
    num_records: int = 500,
    scale: str = "companded",
    encoding: str = "longest_match",
    seed: int = 0,
    show_progress: bool = False,
    fold: int | str | None = None,
) -> dict:
    """
    Trains an ECG-Byte tokenizer and saves it with its card and the patients whose ECGs it was trained on. The number of
    threads does not change the tokenizer.

    Each lead is a word, so that no token spans two leads; missing leads are left out.

    Args:
        dataset: folder or repository of an elm-hf dataset, whose `records` are used.
        num_merges: number of tokens in addition to the 26 letters.
        output: folder to create.
        num_records: number of records drawn for training; all records if there are fewer. Training takes about 40
            bytes of memory per sample, that is 1.2 MB per 12-lead record of 10 s at 250 Hz (500 records 0.6 GB, 20,000
            records 24 GB); 200 records give about as good a vocabulary as 2,000.
        scale: amplitudes of the 26 letters. `"companded"`: -5 to 5 mV, with levels that widen with the amplitude
            (91 µV at the baseline, 0.1 mV at 0.2 mV, 0.5 mV at 2 mV). `"published"`: levels of one width from 0.5 mV below the 1st
            percentile to 0.5 mV above the 99th percentile of the training records, as in ECG-Byte, which clips most
            QRS complexes of high voltage.
        encoding: how ECGs are encoded, see [`EcgByteTokenizer`].
        seed: random seed for drawing records.
        show_progress: show progress bars.
        fold: 1 to 5 or `"official"`: train and measure on records of its training patients; None for all records.

    Returns:
        The figures of the card: `num_merges`, `num_records`, `num_measured` (measured records, which were not used in
        training unless `measured_on_training` is true), `value_range` (mV), `compression` (samples per token),
        `rmse_uv` and `max_uv` (reconstruction error in µV), `clipped` (share of samples outside the range) and those
        of [`measure_voltage`], among others.

    Raises:
        FileExistsError: `output` exists and is not empty.
        FileNotFoundError: the dataset does not exist.
        ValueError: the dataset is not an elm-hf dataset or has no such fold, or its records give fewer merges.
    """
    output = Path(output)
    check_free(output)
    if scale not in SCALES:
        raise ValueError(f'scale "{scale}" is not one of {", ".join(SCALES)}.')
    if num_merges < 1 or num_records < 1:
        raise ValueError(f"Got {num_merges} merges and {num_records} records; expected at least 1 of each.")
    records = load_records(dataset)
    owners, usable = record_patients(records).to_pylist(), np.arange(len(records))
    if fold is not None:
        of_training = patients_of(dataset, fold, held_out=False)
        usable = np.flatnonzero([patient in of_training for patient in owners])
    drawn = np.random.default_rng(seed).permutation(usable)
    training, measured = _ecgs(records, drawn[:num_records]), _ecgs(records, drawn[num_records:][:NUM_MEASURED])
    companded = scale == "companded"
    levels = {
        "value_range": COMPANDED_RANGE if companded else _value_range(training),
        "companding": COMPANDING_MV if companded else None,
    }
    vocab, merges = _train(training, levels, num_merges, show_progress)
    tokenizer = EcgByteTokenizer(vocab, merges, **levels, encoding=encoding)
    report = {
        "dataset": Path(dataset).name if Path(dataset).is_dir() else str(dataset),
        "num_merges": num_merges,
        "num_records": len(training),
        "seed": seed,
        "fold": None if fold is None else str(fold),
        "shape": tuple(records.features["ecg"].shape),
        "sampling_rate": records[0]["sampling_rate"],
        "scale": scale,
        **levels,
        "encoding": encoding,
        "measured_on_training": len(measured) == 0,
        "num_measured": len(measured) or min(len(training), NUM_MEASURED),
    }
    held_out = measured if len(measured) else training[:NUM_MEASURED]
    report |= _measure(tokenizer, held_out) | measure_voltage(tokenizer, held_out, report["sampling_rate"])
    stage = stage_of("tokenizer training", dataset, fold, {owners[row] for row in drawn[:num_records]})
    save_atomically([tokenizer, _card(output.name, tokenizer, report), SeenPatients([stage])], output)
    return report


def read_ecg_byte_pickle(path: str | PathLike) -> EcgByteTokenizer:
    """
    Reads a tokenizer file published with ECG-Byte or ECG-Bench and keeps its ids. No code in the file is executed.

    The tokenizer encodes an ECG as one string by the longest match and scales each ECG by its own range, as ECG-Bench
    does. The original ECG-Byte scales all ECGs by percentiles of its training data; set this range (mV) with
    `EcgByteTokenizer.from_pretrained(folder, value_range=(low, high))`.

    Args:
        path: pickle of `(vocab, merges)`: the string of each id, and `(bytes of the new token, id)` of each merge.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the pickle would import something, is damaged, or does not contain such a vocabulary; or its merges
            take more than a minute to recover.
    """
    path = Path(path)
    loaded = read_plain_pickle(path)
    try:
        tokens = _published_tokens(loaded)
        merges = recover_merges(tokens)
    except ValueError as error:
        raise ValueError(f"{path}: not an ECG-Byte tokenizer: {error}.") from error
    vocab = {token: index for index, token in enumerate([*BYTE_TOKENS, *tokens])}
    return EcgByteTokenizer(vocab, merges, lead_words=False)


def recover_merges(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """
    Recovers the pair that byte-pair encoding joined for each token. ECG-Byte's files keep only the joined strings.

    Applying the earlier merges to the letters of a token leaves exactly its pair: the token occurred in the training
    text between two boundaries that no earlier merge had crossed, and merging goes from left to right.

    Args:
        tokens: strings of letters in the order of their merges.

    Raises:
        ValueError: a token is not the merge of two earlier ones, or this takes longer than `RECOVERY_S`.
    """
    ranks: dict[tuple[str, str], int] = {}
    deadline = monotonic() + RECOVERY_S
    for rank, token in enumerate(tokens):
        if len(token) > MAX_SYMBOLS or monotonic() > deadline:
            raise ValueError(
                f"merge {rank} gives {len(token)} symbols; expected at most {MAX_SYMBOLS}, and merges that are recovered "
                f"within {RECOVERY_S} s"
            )
        pieces = _merged(token, ranks)
        if len(pieces) != 2:
            raise ValueError(
                f"merge {rank} gives {token!r}, which the merges before it split into {len(pieces)} tokens "
                f"({', '.join(pieces[:5])}); expected two"
            )
        ranks[pieces[0], pieces[1]] = rank
    return list(ranks)


def _merged(text: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Tokenizes a text: while pairs in it have a rank, all occurrences of the pair with the lowest rank are joined."""
    pieces = list(text)
    while found := ranks.keys() & set(pairwise(pieces)):
        pair = min(found, key=ranks.__getitem__)
        joined, position = [], 0
        while position < len(pieces):
            is_pair = (pieces[position], *pieces[position + 1 : position + 2]) == pair
            joined.append("".join(pair) if is_pair else pieces[position])
            position += 1 + is_pair
        pieces = joined
    return pieces


def _published_tokens(loaded) -> list[str]:
    """The strings of the merges in a published file, in order."""
    if not (isinstance(loaded, tuple) and [type(part) for part in loaded] == [dict, list]):
        raise ValueError(f"it holds {type(loaded).__name__}; expected a tuple of a dictionary and a list")
    vocab, merges = loaded
    for merge in merges:
        if not (isinstance(merge, tuple) and len(merge) == 2 and isinstance(merge[0], list)):
            raise ValueError(f"merge {merge!r:.60}; expected a tuple of a list of bytes and an id")
    ids = [index for _, index in merges]
    if ids != list(range(256, 256 + len(merges))):
        odd = next(place for place, index in enumerate(ids) if index != 256 + place)
        raise ValueError(
            f"merge {odd} has the id {ids[odd]!r}; expected {256 + odd}, since ids of merges start at 256"
        )
    letters = set(SYMBOLS.encode())
    for place, (values, _) in enumerate(merges):
        if not (values and all(type(value) is int for value in values) and letters.issuperset(values)):
            raise ValueError(f"merge {place} has the symbols {values!r:.60}; expected bytes of the letters a ... z")
    tokens = [bytes(values).decode() for values, _ in merges]
    if len(set(tokens)) < len(tokens):
        raise ValueError("several merges give the same string; expected different ones")
    expected = dict(enumerate([*BYTE_TOKENS, *tokens]))
    if vocab != expected:
        odd = next((index for index in expected if vocab.get(index) != expected[index]), None)
        found = f"more than {len(expected)} ids" if odd is None else f"{vocab.get(odd)!r} as id {odd}"
        wanted = f"ids up to {len(expected) - 1}" if odd is None else f"{expected[odd]!r} as in the merges"
        raise ValueError(f"its vocabulary has {found}; expected {wanted}")
    return tokens


def _ecgs(records: Dataset, rows: np.ndarray) -> EcgSequence:
    """The ECGs of these rows in the order of the table, which is faster to read."""
    return EcgSequence(EcgTable(records), sorted(rows.tolist()))


def _present_leads(ecgs: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The ECGs `(leads, samples)` in mV without their missing leads."""
    for ecg in ecgs:
        present = ecg[~np.isnan(ecg[:, 0])]
        if len(present):
            yield present


def _value_range(ecgs: EcgSequence) -> tuple[float, float]:
    values = np.concatenate([ecg.ravel() for ecg in _present_leads(ecgs)])
    low, high = np.percentile(values, PERCENTILES)
    return round(float(low) - MARGIN_MV, 3), round(float(high) + MARGIN_MV, 3)


def _train(
    ecgs: EcgSequence, levels: dict, num_merges: int, show_progress: bool
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Trains byte-pair encoding. `tokenizers` breaks ties by id, so the number of threads does not matter."""
    alphabet = EcgByteTokenizer({letter: index for index, letter in enumerate(SYMBOLS)}, [], **levels)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SYMBOLS) + num_merges, initial_alphabet=list(SYMBOLS), show_progress=show_progress
    )
    texts = (alphabet.ecg_to_symbols(np.clip(ecg, *levels["value_range"])) for ecg in _present_leads(ecgs))
    backend.train_from_iterator(texts, trainer, length=len(ecgs))
    model = json.loads(backend.to_str())["model"]
    if len(model["merges"]) < num_merges:
        raise ValueError(
            f"{len(ecgs)} records give only {len(model['merges'])} of {num_merges} merges; request fewer merges or train "
            "on more records."
        )
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _measure(tokenizer: EcgByteTokenizer, ecgs: Sequence[np.ndarray]) -> dict[str, float]:
    """Measures the samples per token, the reconstruction error and the share of clipped samples."""
    num_samples, num_tokens, num_clipped, squares, largest = 0, 0, 0, 0.0, 0.0
    for ecg in _present_leads(ecgs):
        clipped = np.clip(ecg, *tokenizer.value_range)
        ids = tokenizer.encode_ecg(clipped)
        error_uv = 1000 * (tokenizer.decode_ecg(ids, num_leads=len(ecg)).astype(np.float64) - ecg)
        num_samples, num_tokens = num_samples + ecg.size, num_tokens + len(ids)
        num_clipped += int((clipped != ecg).sum())
        squares, largest = squares + np.square(error_uv).sum(), max(largest, np.abs(error_uv).max())
    return {
        "compression": num_samples / num_tokens,
        "rmse_uv": float(np.sqrt(squares / num_samples)),
        "max_uv": float(largest),
        "clipped": num_clipped / num_samples,
    }


def _card(name: str, tokenizer: EcgByteTokenizer, report: dict) -> CardFile:
    return CardFile.from_template(
        ModelCardData(library_name="transformers", tags=["ecg", "electrocardiogram", "tokenizer", "elm-hf"]),
        template_str=files("elm_hf.cards").joinpath("ecg_byte_card.md").read_text(encoding="utf-8"),
        name=name,
        report=report,
        vocab_size=len(tokenizer),
        widths_uv=1000 * tokenizer.level_widths(),
        version=version("elm-hf"),
    )
