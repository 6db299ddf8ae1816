"""The leaderboard as Markdown and as one HTML page without other files."""

from collections.abc import Callable
from html import escape

from elm_hf.scoring.markdown import markdown_table, p_cell, score_cell
from elm_hf.scoring.names import CONDITION_NAMES, KIND_NAMES


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; } p { max-width: 52rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.35rem 0.75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e3e6ea; }
th { white-space: normal; max-width: 9rem; vertical-align: bottom; font-weight: 600; border-bottom: 2px solid #b8bec6; }
th small, td small { display: block; font-weight: 400; color: #626b76; font-size: 0.78rem; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tr.baseline td { color: #626b76; } td.best { background: #e4f2e7; font-weight: 700; } td.no { color: #b3261e; }
"""
_HOW = (
    "Scores with the ECG, with the 95 % interval over patients. Bold: better than every other model, by the paired difference of the "
    "same questions, with p below 0.05 after correction for all pairs of models and all columns (Holm 1979). Intervals of two models may "
    "overlap although the paired difference is certain, and the other way round."
)
_READ = (
    "Signal reliance: the score with the ECG minus the best score without it. Claims: statements in the answers, checked against the "
    "measured ECG. Limits: questions of the probe that are answered according to the measurement, and of these the ones "
    "with the clinical limit. ECE: expected calibration error, and Brier score. Nothing is bold here, since these figures are not "
    "compared in pairs. A dash: not in the report."
)


def leaderboard_markdown(found: dict) -> str:
    """The text of `leaderboard.md`."""
    tables = [_scores(found), _reading(found), _costs(found)]
    texts = [markdown_table(head, [[_marked(cell) for cell in row] for row in rows]) for head, rows in tables]
    sections = [f"# {_title(found)}", _summary(found), "## Scores", _HOW, texts[0]]
    sections += ["## What the models read", _READ, texts[1], "## Costs", texts[2]]
    sections += ["\n".join(f"- {note}" for note in found["notes"])] * bool(found["notes"])
    return "\n\n".join(sections) + "\n"


def leaderboard_html(found: dict) -> str:
    """The text of `leaderboard.html`."""
    parts = [f"<h1>{escape(_title(found))}</h1>", f"<p>{escape(_summary(found))}</p>"]
    sections = (("Scores", _HOW, _scores), ("What the models read", _READ, _reading), ("Costs", "", _costs))
    for title, text, table in sections:
        parts += [f"<h2>{title}</h2>", *([f"<p>{escape(text)}</p>"] if text else []), _html_table(*table(found))]
    parts += [f"<h2>Differences between models</h2>{_html_table(*_differences(found))}"]
    if found["notes"]:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in found["notes"]) + "</ul>")
    head = f'<meta charset="utf-8"><title>{escape(_title(found))}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _title(found: dict) -> str:
    return f"{len(found['models'])} models on {found['dataset']}, fold {found['fold']}, {found['split']}"


def _summary(found: dict) -> str:
    return (
        f"{found['questions']} questions about the ECGs of {found['patients']} patients, which all models were asked."
    )


class _Best(str):
    """A cell that is better than all others."""


def _marked(cell: str) -> str:
    return f"**{cell}**" if isinstance(cell, _Best) else cell


def _scores(found: dict) -> tuple[list[str], list[list[str]]]:
    head = ["model"] + [f"{name} ({group['answers']:,})" for name, group in found["groups"].items()]
    rows = []
    for place, model in enumerate(found["models"]):
        cells = [(score_cell(group["scores"][place]), group["best"] == place) for group in found["groups"].values()]
        rows.append([model["name"], *(_Best(cell) if best else cell for cell, best in cells)])
    for name, scores in found["baselines"].items():
        cells = [score_cell(scores[group], False) if group in scores else "—" for group in found["groups"]]
        rows.append([CONDITION_NAMES[name], *cells])
    return head, rows


def _reading(found: dict) -> tuple[list[str], list[list[str]]]:
    kinds = list(dict.fromkeys(kind for model in found["models"] for kind in model["reliance"]))
    names = [f", {KIND_NAMES[kind]}" if len(kinds) > 1 else "" for kind in kinds]
    head = ["model", *(f"signal reliance{name}" for name in names), *(f"reads the ECG{name}" for name in names)]
    head += ["claims: precision", "claims: recall", "false claims per answer"]
    head += ["limits learned", "as in the clinic", "ECE", "Brier"]
    rows = []
    for model in found["models"]:
        reliances = [model["reliance"].get(kind) for kind in kinds]
        cells = ["—" if one is None else score_cell(one) for one in reliances]
        cells += [{True: "yes", False: "no evidence"}.get((one or {}).get("reads_ecg"), "—") for one in reliances]
        for part, keys in (("claims", ("precision", "recall", "false_per_answer")), ("calibration", ("ece", "brier"))):
            entry = model[part]
            if part == "calibration":
                cells += _limit_cells(model["limits"])
            cells += ["—" if entry is None else score_cell(entry[key]) for key in keys]
        rows.append([model["name"], *cells])
    return head, rows


def _limit_cells(limits: dict | None) -> list[str]:
    return (
        ["—", "—"]
        if limits is None
        else [f"{limits['learned']} of {limits['asked']}", str(limits["as_in_the_clinic"])]
    )


def _costs(found: dict) -> tuple[list[str], list[list[str]]]:
    columns: dict[str, tuple[str, Callable]] = {
        "parameters": ("parameters", _count),
        "training": ("training_seconds", _time),
        "training samples": ("training_samples", _count),
        "training tokens": ("training_tokens", _count),
        "evaluation": ("evaluation_seconds", _time),
        "test patients seen in training": ("seen_patients", _count),
    }
    rows = [
        [model["name"], *("—" if model[key] is None else show(model[key]) for key, show in columns.values())]
        for model in found["models"]
    ]
    return ["model", *columns], rows


def _differences(found: dict) -> tuple[list[str], list[list[str]]]:
    """For each two models the second minus the first."""
    names = [model["name"] for model in found["models"]]
    pairs = next(iter(found["groups"].values()))["pairs"]
    rows = []
    for place, pair in enumerate(pairs):
        cells = []
        for group in found["groups"].values():
            one = group["pairs"][place]
            interval = "" if one["low"] is None else f" [{one['low']:+.3f}, {one['high']:+.3f}]"
            p_value = "" if one["p_value_holm"] is None else f"; p {p_cell(one['p_value_holm'])}"
            cells.append(f"{one['difference']:+.3f}{interval}{p_value}")
        rows.append([f"{names[pair['second']]} minus {names[pair['first']]}", *cells])
    return ["", *found["groups"]], rows


def _count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{number:,.0f}"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _html_table(head: list[str], rows: list[list[str]]) -> str:
    first = "".join(f"<th>{_broken(cell, ' (')}</th>" for cell in head)
    body = "".join(f"<tr{_row_class(row)}>" + "".join(map(_html_cell, row)) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{first}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _row_class(row: list[str]) -> str:
    return ' class="baseline"' if row[0] in CONDITION_NAMES.values() else ""


def _html_cell(cell: str) -> str:
    kind = ' class="best"' if isinstance(cell, _Best) else ' class="no"' if cell == "no evidence" else ""
    return f"<td{kind}>{_broken(cell, ' [')}</td>"


def _broken(cell: str, mark: str) -> str:
    """The cell with what follows the mark, an interval or a number of answers, in small letters below."""
    text, found, rest = cell.partition(mark)
    return escape(text) + (f"<small>{escape(found.strip() + rest)}</small>" if found else "")
