"""Which of the given options an answer in words chooses."""

import re
from collections.abc import Sequence
from functools import lru_cache


_MARKS = re.compile(r"[*_`\"“”]+")
_LEAD = r"\b(?:iii|ii|i|avr|avl|avf|v[1-6])\b"
# "leads V2, V3 and V4"
_LEAD_LIST = re.compile(rf"\bleads?:?\s+{_LEAD}(?:(?:[\s,;/&]|\band\b|\bleads?\b)+{_LEAD})*")
_ONLY_LEADS = re.compile(rf"(?:[\s,;/&.:\[\]-]|\band\b|\bleads?\b|{_LEAD})+")
_OPENING = "presence of "


@lru_cache(maxsize=100_000)
def chosen_options(answer: str, options: tuple[str, ...], several: bool = False) -> frozenset[str] | None:
    """
    The options that an answer chooses.

    An answer chooses an option if it is its text, apart from letter case, white space, Markdown, a final full stop, the
    brackets of a range, and "presence of" before a criterion; also behind words that end with "is", "are" or a colon ("the
    correct answer is: ..."). An answer whose first or last word is yes or no chooses this option.

    Args:
        answer: without its reasoning.
        options: of the question.
        several: whether several options can be chosen. Leads may then be listed in any way, also behind the word "leads" in a
            sentence.

    Returns:
        The options, and in lower case what was chosen without being one of them; None if the answer chooses nothing.
    """
    said = _plain(answer)
    if not said:
        return None
    if not several:
        chosen = _one_of(said, options)
        return None if chosen is None else frozenset([chosen])
    leads = {lead: option for option in options if (lead := _lead_of(option))}
    if len(leads) == len(options):
        return _leads(said, leads)
    items = [item for item in re.split(r"[,;\n]", answer) if item.strip()]
    found = [_one_of(_plain(item), options) or _plain(item) for item in items]
    return frozenset(found) if set(found) & set(options) else None


def _plain(text: str) -> str:
    """Lower case, without Markdown, dashes of lists and a final full stop."""
    text = " ".join(_MARKS.sub(" ", text).lower().split())
    return re.sub(r"^[-•\s]+", "", text).rstrip(".").strip()


def _one_of(said: str, options: Sequence[str]) -> str | None:
    """The one option that is said."""
    plain = {_plain(option): option for option in options}
    if said in plain:
        return plain[said]
    for place in (r"(yes|no)\b.*", r".*\b(yes|no)"):
        found = re.fullmatch(place, said)
        if found and found[1] in plain:
            return plain[found[1]]
    found = [name for name in plain if re.fullmatch(rf"(?:.*(?:\bis|\bare|:)\s+)?(?:the\s+)?{_pattern(name)}", said)]
    return plain[max(found, key=len)] if found else None


def _pattern(name: str) -> str:
    """A pattern for the text of an option in lower case."""
    if name.startswith("["):
        inside = r"\s*".join(re.escape(character) for character in name.strip("[]").replace(" ", ""))
        return rf"\[?\s*{inside}\s*\]?"
    opening, rest = (rf"(?:{_OPENING})?", name.removeprefix(_OPENING)) if name.startswith(_OPENING) else ("", name)
    return opening + re.escape(rest)


def _lead_of(option: str) -> str | None:
    found = re.fullmatch(rf"(?:leads?\s+)?({_LEAD})", _plain(option))
    return found[1] if found else None


def _leads(said: str, options: dict[str, str]) -> frozenset[str] | None:
    lists = [said] if _ONLY_LEADS.fullmatch(said) else [found[0] for found in _LEAD_LIST.finditer(said)]
    named = {lead for each in lists for lead in re.findall(_LEAD, each)}
    return frozenset(options.get(lead, lead) for lead in named) or None
