"""The figures about leakage as Markdown."""

from elm_hf.scoring.markdown import markdown_table, score_cell


MOST_PAIRS = 20


def leakage_markdown(found: dict) -> str:
    """The text of `leakage.md`, from the content of `leakage.json`."""
    counts = ", ".join(f"{name} {split['ecgs']} ECGs" for name, split in found["splits"].items())
    sections = [f"# Leakage in {found['dataset']}, fold {found['fold']}", f"{counts}.", *_patients(found)]
    sections += ["## Near-duplicate ECGs", *_duplicates(found)]
    sections += ["## Questions", *_questions(found)]
    if found["checkpoint"] is not None:
        sections += [f"## Training of {found['checkpoint']['checkpoint']}", *_checkpoint(found["checkpoint"])]
    return "\n\n".join(sections) + "\n"


def leakage_sentences(found: dict) -> list[str]:
    """What `leakage.json` says, in a few sentences."""
    said = _patients(found)
    for name, pairs in found["duplicates"]["pairs"].items():
        ecgs = len({pair["record"] for pair in pairs})
        of_all = f"{ecgs} of {found['splits'][name]['ecgs']}"
        said.append(f"Near-duplicates of training ECGs in {name}: {of_all}.")
    for name, entry in found["questions"].items():
        if "copying" in entry:
            said.append(
                f"{entry['in_training']:.1%} of the {entry['questions']} {name} questions are asked in training in the same "
                f"words; the most frequent training answer is right for {score_cell(entry['copying'])}. {entry['copied']} "
                "questions are asked about near-duplicates in training and have the same answer there."
            )
    if found["checkpoint"] is not None:
        said += _checkpoint(found["checkpoint"])
    return said


def _patients(found: dict) -> list[str]:
    both = {name: entry for name, entry in found["patients_on_both_sides"].items() if entry["patients"]}
    if not both:
        return ["No patient is in two splits."]
    return [
        f"**{entry['patients']} patients are in {name}**, such as {', '.join(entry['examples'])}."
        for name, entry in both.items()
    ]


def _duplicates(found: dict) -> list[str]:
    how = found["duplicates"]
    if how["least_correlation"] is None:
        return ["There are no ECGs."]
    text = f"Pairs of a training ECG and another one that correlate by {how['least_correlation']:g} or more, in all leads that both "
    text += f"have and between {how['band_hz'][0]:g} and {how['band_hz'][1]:g} Hz, at a shift of up to "
    text += f"{how['longest_shift']:.0%} of their length, and at other shifts much less."
    sections = [text]
    for name, pairs in how["pairs"].items():
        if not pairs:
            sections.append(f"{name}: none.")
            continue
        rows = [
            [pair["training_record"], pair["record"]]
            + [f"{pair[key]:.3f}" for key in ("correlation", "elsewhere", "shift_s", "gain")]
            for pair in pairs[:MOST_PAIRS]
        ]
        head = ["training ECG", f"{name} ECG", "correlation", "at other shifts", "later by (s)", "gain"]
        more = f"; the first {MOST_PAIRS}" if len(pairs) > MOST_PAIRS else ""
        sections.append(f"{name}: {len(pairs)} pairs{more}.\n\n{markdown_table(head, rows, 2)}")
    return sections


def _questions(found: dict) -> list[str]:
    rows, notes = [], []
    for name, entry in found["questions"].items():
        if "copying" not in entry:
            notes.append(f"{name}: {entry['note']}.")
            continue
        shares = [f"{entry['in_training']:.3f}", score_cell(entry["copying"])]
        numbers = [str(entry[key]) for key in ("about_duplicates", "asked_in_training", "copied")]
        rows.append([name, str(entry["questions"]), *shares, *numbers])
    head = ["split", "questions", "same words in training", "right by copying", "about near-duplicates"]
    head += ["asked about these in training", "same answer there"]
    text = "Copying: the most frequent training answer to the same words, or, for words that do not occur there, to the most "
    text += "similar question. Exact match, with its 95 % interval over patients."
    return [text, *([markdown_table(head, rows)] if rows else []), *notes]


def _checkpoint(entry: dict) -> list[str]:
    said = []
    for name, seen in entry["seen"].items():
        said.append(f"{name}: {seen['sentence'] or 'no patient was in the training of this checkpoint'}.")
    if entry["encoder_trained_on"]:
        names = ", ".join(entry["encoder_trained_on"])
        said.append(
            f"The encoder was trained on {names} before it was published, with the test patients of every fold."
        )
    return said


def leakage_section(found: dict | None) -> list[str]:
    """The section of an evaluation's report, from its key `leakage`."""
    if found is None:
        return []
    parts = [" ".join(_patients(found))]
    if (entry := found.get("copying")) is not None:
        parts[0] += (
            f" {entry['in_training']:.1%} of the questions are asked in training in the same words; the most frequent answer "
            f"there, or that to the most similar question, is right for {score_cell(entry['copying'])}."
        )
    if (twins := found.get("duplicates")) is None:
        parts[0] += " Near-duplicate ECGs were not looked for (elm-hf leakage)."
        return ["## Leakage\n\n" + parts[0]]
    parts[0] += (
        f" Near-duplicates of training ECGs: {twins['ecgs']}; questions about them: {twins['about_duplicates']}. Of all questions of "
        f"the split, {twins['copied']} are asked about a near-duplicate in training and have the same answer there."
    )
    for kind, scores in twins["without"].items():
        cells = [score_cell(scores["with_all"]), score_cell(scores["without_them"])]
        parts.append(f"{kind}, with the ECG: {cells[0]} for all questions, {cells[1]} without these.")
    return ["## Leakage\n\n" + "\n\n".join(parts)]
