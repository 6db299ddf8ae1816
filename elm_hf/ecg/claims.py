"""Claims about an ECG in English text: rate, rhythm, intervals, axis, ST, T, voltage, pauses and premature beats."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from elm_hf.ecg.claim_words import TERRITORIES, Token, tokens_of


# Plausible values by quantity; a number outside is not a value of it.
_PLAUSIBLE = {
    "rate": (15, 350),
    "pr": (40, 600),
    "qrs": (30, 300),
    "qt": (150, 900),
    "qtc": (150, 900),
    "axis": (-180, 270),
    "st": (0, 2),
    "voltage": (0, 15),
    "sokolow": (0, 15),
    "cornell": (0, 15),
    "pause": (500, 30_000),
}
_UNITS = {
    "bpm": ("rate",),
    "ms": ("pr", "qrs", "qt", "qtc", "pause"),
    "mV": ("st", "sokolow", "cornell", "voltage"),
    "°": ("axis",),
}
_WITHOUT_UNIT = ("rate", "pr", "qrs", "qt", "qtc", "axis")
_WITH_LEADS = ("st", "t", "voltage")
_VOLTAGE_LEADS = ("limb", "chest")
# Sentences that are about other tracings, about causes, or about ECGs in general.
_NOT_OF_THIS_ECG = re.compile(
    r"\b(?:defin\w+|previous(?:ly)?|prior|earlier\s+(?:tracing|ECG|recording)|old\s+(?:tracing|ECG)|if\s+the|would|causes?\s+of|criteria\s+(?:include|require))\b",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(r"\b(?:vent|approx|resp|deg|no|vs|ca|min|sec|ref|e\.g|i\.e)$", re.IGNORECASE)
_LIST_MARK = re.compile(r"(?:^|(?<=\s))\d{1,2}[.)](?=\s)")
_MOST_WORDS_BETWEEN = 3
_LONGEST_SENTENCE = 300  # words; longer ones are cut, since the time grows with the square


@dataclass(frozen=True)
class Claim:
    """
    A claim about an ECG.

    Attributes:
        quantity: what it is about, one of `QUANTITIES`.
        state: what is said of it, such as `"prolonged"`; None for a number alone.
        low, high: value or range in beats per minute, ms, mV or degrees (premature beats: their number); None where there
            is no bound. Both are None without a number.
        step: the last digit of the number as a value, for its rounding; 0 for whole numbers.
        leads: the leads that are named.
        territory: name of the leads, one of `TERRITORIES`, if they are named as a group.
        negated: whether the text says that it is not so.
        hedged: whether the text leaves it open ("possible", "cannot be ruled out").
        start, end: place in the text.
    """

    quantity: str
    state: str | None = None
    low: float | None = None
    high: float | None = None
    step: float = 0.0
    leads: tuple[str, ...] = ()
    territory: str | None = None
    negated: bool = False
    hedged: bool = False
    start: int = 0
    end: int = 0

    @property
    def has_value(self) -> bool:
        """Whether it states a number."""
        return self.low is not None or self.high is not None

    def __str__(self) -> str:
        """The claim in short, such as `-st:elevated@V2,V3`: "-" is negated, "?" hedged."""
        state = f":{self.state}" if self.state else ""
        scale = 1000 if self.quantity == "pause" else 1
        low, high = (None if one is None else f"{one / scale:g}" for one in (self.low, self.high))
        value = "" if not self.has_value else f">{low}" if high is None else f"<{high}" if low is None else f"={low}"
        value += f"..{high}" if low is not None and high is not None and low != high else ""
        place = self.territory or ",".join(self.leads)
        marks = "-" * self.negated + "?" * self.hedged
        return f"{marks}{self.quantity}{state}{value}{f'@{place}' if place else ''}"


def find_claims(text: str) -> list[Claim]:
    """
    Find the claims of a text, in its order. `docs/interpretations.md` lists what is understood.

    Sentences about earlier tracings, definitions ("a PR interval over 200 ms defines ...") and conditions ("if the PR
    interval were longer") make no claims, nor do diagnoses that are not a measurement ("inferior infarction").

    Args:
        text: English text, such as a report or an answer with its reasoning.
    """
    text = re.sub(r"[*_#`]", " ", text)  # marks of Markdown
    found = []
    for start, end in _sentences(text):
        if not _NOT_OF_THIS_ECG.search(text, start, end):
            tokens = tokens_of(text, start, end)
            for first in range(0, len(tokens), _LONGEST_SENTENCE):
                found += _Sentence(tokens[first : first + _LONGEST_SENTENCE]).claims()
    return found


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence or line; the marks of a numbered list are left out."""
    marks = list(_LIST_MARK.finditer(text))
    if any(mark.group().startswith("1") and len(mark.group()) == 2 for mark in marks):
        for mark in marks:
            text = text[: mark.start()] + "\n" * (mark.end() - mark.start()) + text[mark.end() :]
    start = 0
    for border in re.finditer(r"[!?\n]|\.(?=\s|$)", text):
        if border.group() == "." and _ABBREVIATION.search(text, start, border.start()):
            continue
        yield start, border.start()
        start = border.end()
    yield start, len(text)


@dataclass
class _Draft:
    """A claim in the making."""

    claim: Claim
    takes_leads: bool
    had_leads: bool = False  # its leads were named before it
    clause: int = 0
    phrase: int = 0


@dataclass
class _Sentence:
    """Reads the tokens of a sentence from left to right."""

    tokens: list[Token]
    drafts: list[_Draft] = field(default_factory=list)
    subjects: tuple[str, ...] = ()  # what adjectives and numbers are about
    subject_start: int | None = None  # where they are named
    is_linked: bool = False  # whether an adjective can still be about them
    waiting: list[Token] = field(default_factory=list)  # adjectives before their subject
    value: Token | None = None  # a number before what it belongs to
    leads: tuple[tuple[str, ...], str | None] = ((), None)  # leads before their claim
    placed: list[_Draft] = field(default_factory=list)  # claims that were given leads last, and by which token
    placed_at: int = -1
    negated: bool = False
    hedged: bool = False
    clause: int = 0  # number of the clause: between "but", "however", ";"
    phrase: int = 0  # number of the part between commas
    between: int = 0  # unknown words since the subject

    def claims(self) -> list[Claim]:
        """The claims of the sentence."""
        for place, token in enumerate(self.tokens):
            getattr(self, f"_read_{token.kind}")(token, place)
        claims = [_said(draft.claim) for draft in self.drafts]
        return [claim for claim in claims if claim is not None]

    # What is spoken about

    def _read_subject(self, token: Token, place: int):
        quantities = token.payload
        is_joined = bool(self.subjects) and bool(quantities) and self._joins(place)
        if token.text.lower() == "intervals" and is_joined:
            return
        self.subjects = self.subjects + quantities if is_joined else quantities
        if not is_joined:
            self.waiting = [one for one in self.waiting if self._reaches(one, place)]
        self.is_linked, self.between, self.subject_start = True, 0, token.start
        for adjective in self.waiting:
            for quantity in quantities:
                self._state(quantity, adjective.payload, adjective.start, token.end, token.text)

    def _joins(self, place: int) -> bool:
        """Whether the subject at this place continues a list of subjects ("PR, QRS and QT")."""
        for before in reversed(self.tokens[:place]):
            if before.kind == "subject":
                return bool(before.payload)
            if before.kind not in ("comma", "and", "or") and before.text.lower() not in (
                "interval",
                "the",
                "a",
                "duration",
            ):
                return False
        return False

    def _reaches(self, adjective: Token, place: int) -> bool:
        """Whether an adjective or noun before the subject at this place is about it."""
        between = self.tokens[self.tokens.index(adjective) + 1 : place]
        if adjective.kind == "noun":
            return [one.text.lower() for one in between] in (["of"], ["of", "the"], ["in", "the"])
        kinds = {one.kind for one in between}
        number = sum(one.kind != "state" for one in between)
        is_apart = kinds & {"comma", "with", "subject", "finding", "value", "leads", "break", "not"}
        copulas = {"is", "are", "was", "were", "which", "that", ":"}
        return number <= _MOST_WORDS_BETWEEN and not is_apart and not copulas & {one.text.lower() for one in between}

    def _precedes_subject(self, token: Token, place: int) -> bool:
        """Whether the next subject is the one that this adjective or noun describes."""
        for ahead in range(place + 1, min(place + 3 + _MOST_WORDS_BETWEEN, len(self.tokens))):
            if self.tokens[ahead].kind == "subject":
                return self._reaches(token, ahead) and bool(set(token.payload) & set(self.tokens[ahead].payload))
        return False

    # What is said of it

    def _read_finding(self, token: Token, place: int):
        for quantity, state in token.payload:
            self._add(quantity, state, token)
        self.subjects, self.is_linked, self.between = tuple(one for one, _ in token.payload), False, 0
        self.subject_start = token.start

    def _read_premature(self, token: Token, place: int):
        draft = self._add("premature", "present", token)
        if token.payload is not None:
            draft.claim = replace(draft.claim, low=float(token.payload), high=float(token.payload))
        self.subjects, self.is_linked = ("premature",), False

    def _read_state(self, token: Token, place: int):
        if "rhythm" in token.payload and ("rr" not in token.payload or "rhythm" in self.subjects):
            self._add("rhythm", token.payload["rhythm"], token)
        elif self._precedes_subject(token, place):
            self.waiting.append(token)
        elif self.is_linked:
            self._all_states(token)

    def _read_noun(self, token: Token, place: int):
        if self._precedes_subject(token, place):
            self.waiting.append(token)
        elif self.is_linked and set(self.subjects) & set(token.payload):
            self._all_states(token)
        elif "abnormal" not in token.payload.values():
            said = {draft.claim.quantity for draft in self.drafts} | set(self.subjects)
            for quantity in set(token.payload) & {"st", "t"} & (said if "st" in token.payload else {"t"}):
                if quantity == "st" or said & {"st", "t"}:
                    self._state(quantity, token.payload, token.start, token.end, token.text)

    def _all_states(self, token: Token):
        for quantity in self.subjects:
            self._state(quantity, token.payload, self.subject_start, token.end, token.text)

    def _state(self, quantity: str, states: dict[str, str], start: int, end: int, text: str):
        if quantity in states and states[quantity]:
            self._add(quantity, states[quantity], Token("state", None, text, start, end))

    def _add(self, quantity: str, state: str | None, token: Token) -> _Draft:
        claim = Claim(quantity, state, negated=self.negated, hedged=self.hedged, start=token.start, end=token.end)
        takes_leads = quantity in _WITH_LEADS
        draft = _Draft(claim, takes_leads, clause=self.clause, phrase=self.phrase)
        if takes_leads and any(self.leads):
            draft.claim = _placed(claim, *self.leads)
            draft.had_leads = True
        if self.value is not None and quantity in ("st", "pause"):
            self._give(draft, quantity, self.value)
            self.value = None
        self.drafts.append(draft)
        return draft

    # Numbers

    def _read_value(self, token: Token, place: int):
        unit = token.payload["unit"]
        if token.payload["pair"]:
            if self.subjects[-2:] == ("qt", "qtc"):
                for quantity, name in (("qt", "low"), ("qtc", "high")):
                    self._number(quantity, token, dict.fromkeys(("low", "high"), token.payload[name]))
            return
        if unit is None:
            if len(self.subjects) == 1 and self.subjects[0] in _WITHOUT_UNIT and not self.between:
                self._number(self.subjects[0], token)
                self.between += 1  # a second number is of something else
            return
        fitting = [quantity for quantity in self.subjects if quantity in _UNITS[unit]]
        if unit == "bpm" and (self.subjects or not self._is_ignored(place)):
            fitting = ["rate"]
        if len(fitting) == 1 and fitting[0] in ("st", "pause"):
            self._measured_finding(fitting[0], token)
        elif len(fitting) == 1:
            self._number(fitting[0], token)
        elif not self.subjects or unit in ("mV", "ms"):
            last = next((draft for draft in reversed(self.drafts) if draft.claim.quantity == "st"), None)
            if unit == "mV" and last is not None and not self._is_ignored(place):
                self._measured_finding("st", token)
            else:
                self.value = token

    def _is_ignored(self, place: int) -> bool:
        """Whether the last subject is one that no claim is about."""
        before = [one for one in self.tokens[:place] if one.kind in ("subject", "finding")]
        return bool(before) and before[-1].kind == "subject" and not before[-1].payload

    def _number(self, quantity: str, token: Token, bounds: dict | None = None):
        given = token.payload | (bounds or {})
        if (
            quantity in ("pr", "qrs", "qt", "qtc")
            and given["unit"] is None
            and max(given["low"] or 0, given["high"] or 0) < 2
        ):
            given |= {name: 1000 * given[name] for name in ("low", "high") if given[name] is not None}
            given["step"] *= 1000
        start = self.subject_start if quantity in self.subjects else token.start
        claim = Claim(quantity, None, given["low"], given["high"], given["step"], start=start, end=token.end)
        is_bound = (claim.low is None) != (claim.high is None)
        if self.negated and is_bound:  # "not above 200 ms"
            claim = replace(claim, low=claim.high, high=claim.low)
        if _is_plausible(claim):
            self.drafts.append(_Draft(claim, False, clause=self.clause, phrase=self.phrase))

    def _measured_finding(self, quantity: str, token: Token):
        """A number that belongs to a finding: "ST elevation of 2 mm"."""
        last = next(
            (
                draft
                for draft in reversed(self.drafts)
                if draft.claim.quantity == quantity and draft.clause == self.clause
            ),
            None,
        )
        if last is None:
            self.value = token
        elif last.claim.has_value:
            draft = _Draft(replace(last.claim, leads=(), territory=None), True, clause=self.clause, phrase=self.phrase)
            self._give(draft, quantity, token)
            self.drafts.append(draft)
        else:
            self._give(last, quantity, token)

    def _give(self, draft: _Draft, quantity: str, token: Token):
        given = token.payload
        claim = replace(draft.claim, low=given["low"], high=given["high"], step=given["step"])
        if _is_plausible(claim) and (given["unit"] == "mV") == (quantity == "st"):
            draft.claim = replace(claim, start=min(claim.start, token.start), end=max(claim.end, token.end))

    # Leads

    def _read_leads(self, token: Token, place: int):
        self._place(token.payload, None, place)

    def _read_territory(self, token: Token, place: int):
        name, is_explicit = token.payload
        following = [one for one in self.tokens[place + 1 : place + 4] if one.kind != "word"]
        is_before_wave = (
            bool(following) and following[0].kind == "subject" and bool(set(following[0].payload) & {"st", "t"})
        )
        if is_explicit or (is_before_wave and "with" not in [one.kind for one in self.tokens[place + 1 : place + 3]]):
            if is_explicit or not is_before_wave:
                self._place((), name, place)
            else:
                self.leads = ((), name)

    def _place(self, leads: tuple[str, ...], territory: str | None, place: int):
        """Gives leads to the claims before them that have none, or keeps them for the claims that follow."""
        if self.placed and {one.kind for one in self.tokens[self.placed_at + 1 : place]} <= {
            "and",
            "comma",
            "or",
            "filler",
        }:
            more = [replace(draft, claim=_placed(draft.claim, leads, territory)) for draft in self.placed]
            self.drafts += more  # "in the limb leads and V6"
            self.placed, self.placed_at = more, place
            return
        taking = [draft for draft in self.drafts if draft.takes_leads and draft.clause == self.clause]
        if not taking and self.negated and self.clause:  # "... in the lateral leads but not in the inferior leads"
            last = next((draft for draft in reversed(self.drafts) if draft.claim.quantity in ("st", "t")), None)
            if last is not None:
                copy = replace(last.claim, negated=True)
                self.drafts.append(
                    _Draft(_placed(copy, leads, territory), False, clause=self.clause, phrase=self.phrase)
                )
            return
        without = [draft for draft in taking if not draft.had_leads] or taking[-1:]
        for draft in without:
            draft.claim = _placed(draft.claim, leads, territory)
            draft.takes_leads = False
        self.leads = ((), None) if without else (leads, territory)
        self.placed, self.placed_at = without, place

    # Negation and hedging

    def _read_not(self, token: Token, place: int):
        self.negated = True

    def _read_not_before(self, token: Token, place: int):
        for draft in self.drafts:
            if (draft.clause, draft.phrase) == (self.clause, self.phrase):
                draft.claim = replace(draft.claim, negated=True)

    def _read_maybe(self, token: Token, place: int):
        self.hedged = True

    def _read_maybe_before(self, token: Token, place: int):
        for draft in self.drafts:
            if (draft.clause, draft.phrase) == (self.clause, self.phrase):
                draft.claim = replace(draft.claim, hedged=True)

    def _read_comma(self, token: Token, place: int):
        self.phrase += 1
        self.hedged = False
        self.negated = self.negated and self._list_goes_on(place)

    def _list_goes_on(self, place: int) -> bool:
        """Whether a list behind "no" has an "or" ahead: "no ST elevation, T inversion or pauses"."""
        for ahead in self.tokens[place + 1 :]:
            if ahead.kind in ("and", "not", "with", "break", "value") or ahead.text.lower() in ("normal", "is", "are"):
                return False
            if ahead.kind == "or":
                return True
        return False

    def _read_or(self, token: Token, place: int):
        pass

    def _read_and(self, token: Token, place: int):
        if not self._is_between_subjects(place):
            self.negated = False

    def _is_between_subjects(self, place: int) -> bool:
        ahead = self.tokens[place + 1 : place + 2]
        return place > 0 and self.tokens[place - 1].kind == "subject" and bool(ahead) and ahead[0].kind == "subject"

    def _read_with(self, token: Token, place: int):
        if token.text.lower() == "with":
            self.negated = self.hedged = False

    def _read_break(self, token: Token, place: int):
        self.clause += 1
        self.phrase += 1
        self.negated = self.hedged = False
        self.leads, self.value = ((), None), None

    # The rest

    def _read_filler(self, token: Token, place: int):
        pass

    def _read_reference(self, token: Token, place: int):
        pass

    def _read_word(self, token: Token, place: int):
        self.is_linked = False
        self.between += 1


def _placed(claim: Claim, leads: tuple[str, ...], territory: str | None) -> Claim:
    if claim.quantity == "voltage" and territory not in _VOLTAGE_LEADS:
        return claim
    return replace(claim, leads=TERRITORIES[territory] if territory else leads, territory=territory)


def _is_plausible(claim: Claim) -> bool:
    least, most = _PLAUSIBLE.get(claim.quantity, (float("-inf"), float("inf")))
    return all(least <= value <= most for value in (claim.low, claim.high) if value is not None)


def _said(claim: Claim) -> Claim | None:
    """The claim as it is; None for one that says nothing ("ST changes"). What is not abnormal is normal."""
    if claim.state == "flat":
        return None
    if claim.state != "abnormal":
        return claim
    return replace(claim, state="normal", negated=False) if claim.negated else None
