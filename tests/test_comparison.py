"""The comparison of representations on PTB-XL, at equal seconds, with tiny models and simulated ECGs."""

import runpy

import pytest
from conftest import ROOT

from elm_hf.training.cost_file import read_costs
from elm_hf.utils.reports import read_report


SCRIPT = ROOT / "recipes" / "comparison" / "ptb_xl.py"


def table_of(printed: str) -> dict[str, dict[str, str]]:
    """The rows of the table by their first column."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("| ")
    ]
    return {cells[0]: dict(zip(lines[0], cells)) for cells in lines[2:]}


@pytest.mark.timeout(600)
def test_arms_are_trained_and_their_seeds_are_averaged(tmp_path, capsys, monkeypatch):
    for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")  # restored afterwards
    main = runpy.run_path(str(SCRIPT))["main"]
    arguments = ["--smoke", "--output", str(tmp_path), "--seeds", "0", "1", "--", "encoder", "ecg_byte"]
    main(arguments)
    printed = capsys.readouterr().out
    encoder, ecg_byte = table_of(printed).values()

    costs = [
        [read_costs(tmp_path / "encoder" / f"seed_{seed}" / phase) for phase in ("encoder", "trained")]
        for seed in (0, 1)
    ]
    steps = [[one["steps"] for one in phases] for phases in costs]
    assert steps[0] == steps[1]  # the rate is measured once
    assert encoder["steps"] == f"{steps[0][0]} + {steps[0][1]}" and "+" not in ecg_byte["steps"]
    assert encoder["ECGs"] == f"{64 * steps[0][0]:,} + {8 * steps[0][1]:,}"
    assert encoder["seconds"] == f"{sum(one['seconds'] for phases in costs for one in phases) / 2:.0f}"

    reports = [read_report(tmp_path / "ecg_byte" / f"seed_{seed}" / "report") for seed in (0, 1)]
    scores = [report["scores"]["all"]["conditions"]["ecg"]["exact_match"]["score"] for report in reports]
    assert ecg_byte["exact match"].startswith(f"{sum(scores) / 2:.3f} [")
    assert ecg_byte["each seed"] == " ".join(f"{score:.3f}" for score in scores)
    assert "12 questions about" in printed and "- ecg_byte: " in printed

    main(arguments)
    again = capsys.readouterr().out
    assert "$ elm-hf" not in again and table_of(again) == table_of(printed)


def test_an_unknown_arm_is_refused(capsys):
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT))["main"](["--smoke", "pach"])
    assert "unknown arm pach; there are encoder, patch, conv, image, ecg_byte" in capsys.readouterr().err
