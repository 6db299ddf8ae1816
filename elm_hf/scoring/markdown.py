"""Tables and scores in Markdown."""


def score_cell(entry: dict, with_interval: bool = True) -> str:
    """A score with its interval; a dash where it is not defined."""
    if entry["score"] is None:
        return "—"
    if not with_interval or entry["low"] is None:
        return f"{entry['score']:.3f}"
    return f"{entry['score']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def p_cell(p_value: float) -> str:
    """A p-value with four decimals; no p-value is 0."""
    return f"{p_value:.4f}" if p_value >= 0.0001 else "<0.0001"


def markdown_table(head: list[str], rows: list[list[str]], num_words: int = 1) -> str:
    """A Markdown table: the first `num_words` columns are words, the others numbers."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    ruler = ["---"] * num_words + ["---:"] * (len(head) - num_words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], ruler, *cells[1:]))
