"""The comparison of representations on PTB-XL, at equal seconds, with tiny models and simulated ECGs."""

import runpy

import pytest
from conftest import ROOT

from elm_hf.training.cost_file import read_costs
from elm_hf.utils.reports import read_report


SCRIPT = ROOT / "recipes" / "comparison" / "ptb_xl.py"


def table_of(printed: str) -> dict[str, dict[str, str]]:
    """The rows of the table by their first column."""
    lines = [line for line in printed[printed.index("| arm |") :].splitlines() if line.startswith("| ")]
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {cells[0]: dict(zip(head, cells)) for cells in rows}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_arms_are_trained_and_compared(tmp_path, capsys, monkeypatch):
    for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")  # restored afterwards
    main = runpy.run_path(str(SCRIPT))["main"]
    arguments = ["--smoke", "--output", str(tmp_path), "--seeds", "3", "--", "encoder", "ecg_byte"]
    main(arguments)
    printed = capsys.readouterr().out
    encoder, ecg_byte = table_of(printed).values()

    phases = [read_costs(tmp_path / "encoder" / "seed_3" / phase) for phase in ("encoder", "trained")]
    assert encoder["steps"] == " + ".join(str(one["steps"]) for one in phases) and "+" not in ecg_byte["steps"]
    assert encoder["ECGs"] == f"{64 * phases[0]['steps']:,} + {8 * phases[1]['steps']:,}"
    assert encoder["processor seconds"] == f"{sum(one['processor_seconds'] for one in phases):.0f}"
    report = read_report(tmp_path / "ecg_byte" / "seed_3" / "report")
    score = report["scores"]["all"]["conditions"]["ecg"]["exact_match"]["score"]
    assert ecg_byte["exact match"].startswith(f"{score:.3f} [") and ecg_byte["each seed"] == f"{score:.3f}"
    assert "12 questions about" in printed and "- ecg_byte: " in printed

    main(arguments)
    again = capsys.readouterr().out
    assert "$ elm-hf" not in again and table_of(again) == table_of(printed)


def test_an_unknown_arm_is_refused(capsys):
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT))["main"](["--smoke", "pach"])
    assert "unknown arm pach; there are encoder, patch, conv, image, ecg_byte" in capsys.readouterr().err
