"""Reads the 12SL table of PTB-XL+ (Strodthoff et al. 2023): features of PTB-XL's ECGs by a commercial algorithm."""

from os import PathLike
from pathlib import Path

import numpy as np

from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import FEATURES, hodges_qtc
from elm_hf.utils.files import read_table


TABLE = "features/12sl_features.csv"
# The column of each feature, in ms, mV, degrees or beats per minute. Downward waves are negative in the table.
_GENERAL = {
    "heart_rate": "HR_Ventr_Global",
    "p_ms": "P_Dur_Global",
    "pr_ms": "PR_Int_Global",
    "qrs_ms": "QRS_Dur_Global",
    "qt_ms": "QT_Int_Global",
    "axis_deg": "R_AxisFrontal_Global",
}
_OF_LEADS = {"q_ms": "Q_Dur", "q_mv": "Q_Amp", "r_mv": "R_Amp", "s_mv": "S_Amp", "st_mv": "ST_Amp", "t_mv": "T_Amp"}
_DEPTHS = ("q_mv", "s_mv")


def read_12sl_features(folder: str | PathLike) -> dict[str, dict[str, float]]:
    """
    Reads the features of each ECG of PTB-XL, in the form of `measure_ecg`; NaN where the algorithm gives no value.

    Args:
        folder: folder of PTB-XL+, with `features/12sl_features.csv`.

    Returns:
        A dictionary from `ecg_id` to a value for each of `FEATURES`.

    Raises:
        FileNotFoundError: the table does not exist.
        ValueError: the table lacks a column, or a value is not a number.
    """
    path = Path(folder) / TABLE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected the folder of PTB-XL+ (--ptb-xl-plus) with {TABLE}")
    columns = dict(_GENERAL)
    columns |= {f"{name}_{lead}": f"{column}_{lead}" for name, column in _OF_LEADS.items() for lead in LEADS}
    found = {}
    for row in read_table(path, ["ecg_id", *columns.values()]):
        values = {name: _number(row, column, path) for name, column in columns.items()}
        values |= {name: abs(value) for name, value in values.items() if name.startswith(_DEPTHS)}
        values["qtc_ms"] = hodges_qtc(values["qt_ms"], values["heart_rate"])  # as in `measure_ecg`
        found[row["ecg_id"].removesuffix(".0")] = dict.fromkeys(FEATURES, float("nan")) | values | _voltages(values)
    return found


def _number(row: dict[str, str], column: str, path: Path) -> float:
    try:
        return float(row[column] or "nan")
    except ValueError as error:
        raise ValueError(f"{path}: ecg_id {row['ecg_id']}: {column} is {row[column]!r}, not a number") from error


def _voltages(values: dict[str, float]) -> dict[str, float]:
    """The voltage sums of two leads; NaN if one of them is NaN."""
    return {
        "sokolow_mv": values["s_mv_V1"] + np.fmax(values["r_mv_V5"], values["r_mv_V6"]),
        "cornell_mv": values["r_mv_aVL"] + values["s_mv_V3"],
    }
