"""What a model's answers follow, on its card: written by a probe, by an evaluation, and kept when the card is written anew."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from test_publish import REPORT

from elm_hf.checkpoints.card_sections import (
    CARD_FIGURE,
    COUNTERFACTUALS,
    EVALUATION,
    published_card,
    report_figures,
    section_of,
    with_section,
)
from elm_hf.evaluation.card import update_card, update_card_with_probe
from elm_hf.interpretations.claims_figure import claims_figure
from elm_hf.interpretations.claims_markdown import claim_sections, claims_sentence


RENDERS_CHARTS = True
CURVE = {
    "finding": "first degree av block",
    "quantity": "PR interval",
    "unit": "ms",
    "answers": ["yes", "no"],
    "clinical_limit": 200,
    "values": [180.0, 194.0, 208.0, 222.0],
    "share": [0.0, 0.2, 0.9, 1.0],
    "probability": [0.1, 0.3, 0.8, 0.9],
    "curve": {"limit": 201.0, "slope": 0.2},
    "limit": 201.0,
    "low": 196.0,
    "high": 206.0,
}
PROBE = {
    "run": {"dataset": "questions", "patients": 16},
    "summary": ["22 of 26 questions are answered with a limit.", "Of 300 answers, 0.80 [0.74, 0.85] hang on it."],
    "curves": [CURVE],
    "figure": "figures/probe_curves.png",
}
ENTRY = {"low": 0.5, "high": 0.9, "of": 20}
CLAIMS = {
    "answers": 12,
    "patients": 10,
    "of_several_ecgs": 0,
    "asking_for_all_findings": 12,
    "conditions": {
        name: {"claims": 30, "not_checkable": 8, "hedged": 2, "findings": {}}
        | {"precision": ENTRY | {"score": precision}, "recall": ENTRY | {"score": 0.6, "of": 5}}
        | {
            "false_per_answer": ENTRY | {"score": 0.4},
            "answers_with_false": ENTRY | {"score": 0.3},
            "score": ENTRY | {"score": 0.2},
        }
        for name, precision in (("ecg", 0.8), ("zeros", 0.55))
    },
    "reliance": {"score": 0.3, "low": 0.1, "high": 0.5, "best_control": "zeros", "reads_ecg": True},
}


@pytest.fixture
def adapter(tmp_path) -> Path:
    """A folder with as much of a checkpoint as its card needs."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "user/base"}))
    return folder


def test_a_section_is_put_before_the_last_line_and_replaced():
    text = "# Card\n\n## Evaluation\n\nGood.\n\nMade with elm-hf 1.\n"
    once = with_section(text, "## New\n\nfirst\n")
    assert once == "# Card\n\n## Evaluation\n\nGood.\n\n## New\n\nfirst\n\nMade with elm-hf 1.\n"
    assert with_section(once, "## New\n\nsecond") == once.replace("first", "second")
    assert section_of(once, "## Evaluation") == "## Evaluation\n\nGood.\n\n" and section_of(once, "## Old") is None
    assert with_section("# Mine", "## New\n\nfirst") == "# Mine\n\n## New\n\nfirst\n\n"


def test_a_probe_writes_its_section_with_the_figure_and_leaves_the_rest(adapter):
    report = REPORT | {
        "conditions": {"ecg": {}, "zeros": {}},
        "claims": CLAIMS | {"sentence": "Claims of 12 answers."},
    }
    update_card(adapter, report)
    before = (adapter / "README.md").read_text()
    assert "Claims of 12 answers." in section_of(before, EVALUATION) and COUNTERFACTUALS not in before
    update_card_with_probe(adapter, PROBE)
    after = (adapter / "README.md").read_text()
    section = section_of(after, COUNTERFACTUALS)
    assert all(sentence in section for sentence in PROBE["summary"]) and "of 16 patients" in section
    assert f"({CARD_FIGURE})" in section and (adapter / CARD_FIGURE).stat().st_size > 5_000
    assert after.replace(section, "") == before
    # Another evaluation replaces the scores and keeps the section; one with a probe replaces the section as well.
    update_card(adapter, report | {"claims": None})
    text = (adapter / "README.md").read_text()
    assert section_of(text, COUNTERFACTUALS) == section and "Claims of 12" not in text
    update_card(adapter, report | {"probe": PROBE | {"summary": ["No limit."]}})
    text = (adapter / "README.md").read_text()
    assert "No limit." in text and "22 of 26" not in text and text.count(COUNTERFACTUALS) == 1
    with pytest.raises(ValueError, match="written into the card of a folder"):
        update_card_with_probe("owner/name", PROBE)


def test_a_published_card_has_the_sections_of_the_reports_or_of_the_folder(adapter, tmp_path):
    update_card(adapter, REPORT | {"conditions": {"ecg": {}}})
    update_card_with_probe(adapter, PROBE)
    kept = published_card(adapter, "user/adapter", [])
    assert 'repo = "user/adapter"' in kept.text and "| all | 40 | Exact match | 0.750 [0.610, 0.860]" in kept.text
    assert "22 of 26" in kept.text and kept.data.eval_results[0].metric_value == 0.75
    report = REPORT | {"probe": PROBE | {"summary": ["No limit."]}}
    new = published_card(adapter, "user/adapter", [report]).text
    assert "No limit." in new and "22 of 26" not in new
    folder = tmp_path / "report"
    with pytest.raises(FileNotFoundError, match="the figure that .*report names is not there"):
        folder.mkdir()
        report_figures([folder], [report])
    (folder / "figures").mkdir()
    (folder / PROBE["figure"]).write_bytes(b"png")
    (folder / "report.json").write_text("{}")
    for path in (folder, folder / "report.json"):
        assert report_figures([path], [report]) == {CARD_FIGURE: folder / PROBE["figure"]}
    assert report_figures([folder], [REPORT]) == {}
    assert ModelCard(str(kept)).data.tags


def test_claims_have_a_sentence_and_a_figure(tmp_path):
    assert claims_sentence(CLAIMS) == (
        "Claims of 12 answers (with ECG, 10 patients), compared with the measured ECG: 0.800 [0.500, 0.900] of 20 are true (ECG "
        "zeroed: 0.550); 0.400 [0.500, 0.900] false ones per answer; 0.600 [0.500, 0.900] of 5 abnormal findings are stated. The "
        "claims of this model depend on the ECG: score with the ECG minus the best score without it (ECG zeroed) 0.300 [0.100, 0.500]."
    )
    upper, lower = claims_figure(CLAIMS).axes
    # Of each condition the share of true claims and that of stated findings.
    assert [round(bar.get_width(), 2) for bar in upper.patches if bar.get_width()] == [0.8, 0.55, 0.6, 0.6]
    assert not [bar for bar in lower.patches if bar.get_width()]
    assert "(figures/claims.png)" in "\n".join(claim_sections(CLAIMS, "figures/claims.png"))
    assert ".png" not in "\n".join(claim_sections(CLAIMS))
