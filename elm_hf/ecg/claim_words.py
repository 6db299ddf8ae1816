"""The terms of claims about an ECG in English text: what they look like, and the tokens that a sentence is made of."""

import re
from dataclasses import dataclass


# What a claim can be about. `qt` and `qtc` without a number mean the same.
QUANTITIES = (
    *("rate", "rhythm", "pr", "qrs", "qt", "qtc", "axis", "st", "t"),
    *("voltage", "sokolow", "cornell", "pause", "premature"),
)
# Leads of each territory. Territories overlap, as they do in reports.
TERRITORIES = {
    "anteroseptal": ("V1", "V2", "V3", "V4"),
    "anterolateral": ("V3", "V4", "V5", "V6", "I", "aVL"),
    "inferolateral": ("II", "III", "aVF", "V5", "V6"),
    "high lateral": ("I", "aVL"),
    "inferior": ("II", "III", "aVF"),
    "anterior": ("V1", "V2", "V3", "V4"),
    "septal": ("V1", "V2"),
    "lateral": ("I", "aVL", "V5", "V6"),
    "right precordial": ("V1", "V2", "V3"),
    "left precordial": ("V4", "V5", "V6"),
    "chest": ("V1", "V2", "V3", "V4", "V5", "V6"),
    "limb": ("I", "II", "III", "aVR", "aVL", "aVF"),
}
_SAME_TERRITORY = {"precordial": "chest", "peripheral": "limb", "extremity": "limb", "frontal": "limb"}
_NUMBER_WORDS = {
    **dict(zip(("one", "two", "three", "four", "five"), range(1, 6))),
    **dict(zip(("six", "seven", "eight", "nine", "ten"), range(6, 11))),
}
_NUMBER_WORDS |= {"single": 1, "a single": 1, "an isolated": 1, "a solitary": 1}

_INTERVALS = ("pr", "qrs", "qt", "qtc")
_WAVES = ("st", "t")


@dataclass(frozen=True)
class Token:
    """
    A part of a sentence.

    Attributes:
        kind: what it does, see `_TERMS`.
        payload: what it stands for; depends on the kind.
        text: as in the sentence.
        start, end: place in the text.
    """

    kind: str
    payload: object
    text: str
    start: int
    end: int


def _long(state: str, *quantities: str) -> dict[str, str]:
    return dict.fromkeys(quantities, state)


_NORMAL = _long("normal", "rate", *_INTERVALS, "axis", *_WAVES, "voltage")
_ABNORMAL = _long("abnormal", "axis", *_WAVES)
_LEAD = r"(?:aV[RLF]|V[1-6]|III|II|I)"
_JOIN = r"\s*(?:,?\s*\band\b|,?\s*\bor\b|,|/|&|[-–]|\bto\b|\bthrough\b)\s*(?:in\s+)?(?:leads?\s+)?"
_LEAD_LIST = rf"\b(?:leads?\s+)?{_LEAD}\b(?:{_JOIN}(?:{_LEAD}|[1-6](?![\d.]|\s*mm))\b)*"
_NUMBER = r"[-+−]?\d+(?:\.\d+)?"
_BPM = r"bpm|beats?\s*(?:per|/|a)\s*min(?:ute)?|/\s*min(?:ute)?|per\s+min(?:ute)?"
_UNIT = rf"(?:{_BPM}|ms(?:ec)?\b|milliseconds?|s(?:ec(?:onds?)?)?\b|mV\b|millivolts?|mm\b(?!/)|millimet(?:er|re)s?|°|deg(?:rees?)?\b)"
_ABOVE = r"(?:more|greater|longer|higher|larger)\s+than|over|above|exceed(?:s|ing)|at\s+least|[>≥]=?"
_BELOW = r"(?:less|lower|shorter|smaller)\s+than|below|under|up\s+to|at\s+most|[<≤]=?"
_VALUE = (
    rf"(?:\bbetween\s+(?P<from>{_NUMBER})\s*(?:{_UNIT})?\s*and\s+(?P<until>{_NUMBER})|(?P<bound>{_ABOVE}|{_BELOW})?\s*(?<![\w.])(?P<low>{_NUMBER})"
    rf"(?:\s*(?P<join>-|–|to|/)\s*(?P<high>{_NUMBER}))?)(?![\w.]*\d)\s*-?(?P<unit>{_UNIT})?(?:\s+(?:wide|long|tall|high|deep)\b)?"
)
_COUNT = r"(?:(?P<count>\d{1,2}|an?\s+(?:single|isolated|solitary)|single|one|two|three|four|five|six|seven|eight|nine|ten)\s+)?"
_BEATS = r"(?:complex(?:es)?|contractions?|beats?|depolari[sz]ations?)(?:\(s\))?"
_CHAMBER = r"(?:(?:supra)?ventricular|atrial|junctional|nodal)"
_PREMATURE = (
    rf"{_COUNT}\b(?:(?:{_CHAMBER}\s+)?(?:premature|ectopic)\s+(?:{_CHAMBER}\s+)?{_BEATS}|(?:{_CHAMBER}\s+)?extrasystol\w+"
    rf"|PVCs?|PACs?|VPBs?|APBs?|VPCs?|APCs?|SVES|VES|(?:{_CHAMBER}\s+)?ectopy)(?!\w)(?:\(s\))?"
)
_LVH = r"(?:left\s+ventricular\s+hypertrophy|LVH)"
_SOKOLOW = r"Sokolow(?:[-–\s]+Lyon)?"
_CRITERIA = r"(?:\s+(?:voltage\s+)?criteri(?:a|on))"

# Kind, payload and pattern of each term; the first one that fits is taken.
#   subject    quantities; none for what no claim is about, so that no number or adjective is taken for another subject's
#   finding    quantities and states: a claim of its own
#   state      an adjective: the state of each quantity that it can describe ("rr": of the rhythm only where RR is named)
#   noun       a noun of the same kind ("elevation")
#   value, leads, not, not_before (negates what precedes), maybe, maybe_before, break, ...
_TERMS: tuple[tuple[str, object, str], ...] = (
    ("reference", None, r"\((?:normal|reference|ref\.?|nl)\b[^)]*\d[^)]*\)"),
    (
        "subject",
        (),
        r"\b(?:rate\s+limit|(?:upper\s+|lower\s+)?limits?\s+of(?:\s+normal)?|threshold|cut-?off|[PT]\s+axis|[PQR]\s*-?\s*waves?(?!\s+(?:axis))"
        r"|PR\s+(?:segment|depression|elevation)|Cornell\s+product|non-?\s*ST\b[-\s]*(?:segment)?[-\s]*elevation"
        r"|ST(?:[-\s]+segment)?[-\s]+elevation\s+(?:myocardial|MI\b|ACS)|for\s+(?:the\s+)?(?:heart\s+)?rate"
        r"|reciprocal\s+changes?|normal\s+(?:ECG|EKG|electrocardiogram|tracing|variant)|atrial\s+rate|LAD\s+(?:territory|occlusion|lesion|artery|stenosis)"
        r"|(?:left|right)\s+(?:anterior\s+|posterior\s+)?(?:bundle|fascicular|hemi|atrial)\w*|(?:left|right)\s+ventric\w+\s+(?:strain|enlargement)"
        r"|repolari[sz]ation)\b",
    ),
    (
        "finding",
        (("sokolow", "high"),),
        rf"\b{_LVH}\s+(?:by|on|per|according\s+to)\s+(?:the\s+)?{_SOKOLOW}{_CRITERIA}?",
    ),
    ("finding", (("cornell", "high"),), rf"\b{_LVH}\s+(?:by|on|per|according\s+to)\s+(?:the\s+)?Cornell{_CRITERIA}?"),
    ("finding", (("sokolow", "high"),), rf"\b{_SOKOLOW}{_CRITERIA}(?:\s+for\s+{_LVH})?"),
    ("finding", (("cornell", "high"),), rf"\bCornell{_CRITERIA}(?:\s+for\s+{_LVH})?"),
    ("finding", (("voltage", "high"),), rf"\b{_LVH}\s+(?:by|on|per)\s+(?:the\s+)?(?:QRS\s+)?voltages?{_CRITERIA}?"),
    (
        "finding",
        (("voltage", "high"),),
        rf"\bvoltage\s+criteri(?:a|on)(?:\s+(?:for|of)\s+{_LVH})?|\bvoltages?\s+(?:of|for)\s+{_LVH}",
    ),
    ("finding", (("voltage", "low"),), r"\bmicrovoltage"),
    ("subject", (), rf"\b{_LVH}\b"),
    ("subject", ("sokolow",), rf"\b{_SOKOLOW}(?:\s+(?:index|voltage|value|sum))?\b"),
    (
        "subject",
        ("sokolow",),
        r"\bS\s+(?:wave\s+)?in\s+V1\s*(?:plus|\+|and)\s*R\s+(?:wave\s+)?in\s+V[56](?:\s+or\s+V6)?",
    ),
    ("subject", ("cornell",), r"\bCornell(?:\s+(?:index|voltage|value|sum))?\b"),
    (
        "finding",
        (("pr", "prolonged"),),
        r"\b(?:first|1st|1°|I°)[-\s]*(?:degree)?\s+(?:A-?V|atrio-?ventricular)[-\s]+block",
    ),
    (
        "finding",
        (("pr", "prolonged"),),
        r"\b(?:A-?V|atrio-?ventricular)[-\s]+block\s+(?:of\s+)?(?:the\s+)?(?:first|1st)[-\s]*degree",
    ),
    ("finding", (("rhythm", "fibrillation"),), r"\b(?:atrial\s+fibrillation|a-?fib\b|AF\b)"),
    ("finding", (("rhythm", "irregular"),), r"\bsinus\s+arr?hythmia"),
    ("finding", (("rate", "slow"),), r"\bbradycardi[ac]\w*"),
    ("finding", (("rate", "fast"),), r"\btachycardi[ac]\w*"),
    (
        "finding",
        (("axis", "left"),),
        r"\b(?:left(?:ward)?\s+(?:QRS\s+)?axis(?:\s+deviation)?|left\s+deviation\s+of\s+the\s+axis|LAD)\b",
    ),
    (
        "finding",
        (("axis", "right"),),
        r"\b(?:right(?:ward)?\s+(?:QRS\s+)?axis(?:\s+deviation)?|right\s+deviation\s+of\s+the\s+axis|RAD)\b",
    ),
    ("finding", (("axis", "extreme"),), r"\b(?:extreme|north-?west|superior)\s+(?:right\s+)?axis(?:\s+deviation)?"),
    ("finding", (("axis", "abnormal"),), r"\baxis\s+deviation"),
    ("premature", None, _PREMATURE),
    ("finding", (("pause", "present"),), r"\b(?:sinus\s+)?pauses?\b"),
    (
        "leads",
        (),
        r"\b(?:in\s+)?all\s+(?:other\s+)?(?:12\s+|twelve\s+)?leads(?:\s+(?:except|but)\s+(?:for\s+)?[\w, ]+)?",
    ),
    ("leads", None, _LEAD_LIST),
    ("subject", ("qt", "qtc"), r"\bQT\s*/\s*QT\s*c\w?\b(?:\s+intervals?)?"),
    (
        "subject",
        ("qtc",),
        r"\b(?:QT\s?c[BFH]?|(?:rate-?\s*)?corrected\s+QT|QTc[BFH])\b(?:[-\s]+(?:interval|time|duration)s?)?",
    ),
    ("subject", ("qt",), r"\bQT\b(?:[-\s]+(?:interval|time|segment|duration)s?)?"),
    ("subject", ("pr",), r"\bP[RQ]\b(?:[-\s]+(?:interval|time|duration)s?)?"),
    ("subject", ("rhythm",), r"\bR-?R\b(?:[-\s]+(?:interval|distance)s?)?"),
    ("subject", ("axis",), r"\b(?:(?:mean|frontal|electrical|heart|cardiac|QRS)\s+)*axis\b"),
    ("subject", ("voltage",), r"\b(?:QRS\s+)?(?:voltages?|amplitudes?)\b"),
    ("subject", ("qrs",), r"\bQRS\b(?:[-\s]+complex(?:es)?)?(?:[-\s]+(?:duration|width|interval)s?)?"),
    ("subject", ("qrs",), r"\bcomplex(?:es)?\b"),
    ("subject", ("pr", "qrs", "qt"), r"\bintervals\b"),
    (
        "subject",
        ("rate",),
        r"\b(?:(?:mean|average|resting|ventricular|vent\.?|heart|sinus)\s+)*(?:rate|ventricular\s+response)\b|\bHR\b",
    ),
    ("subject", ("rate",), r"\bheart\s+(?:is\s+)?beat(?:s|ing)\b"),
    ("subject", ("rhythm",), r"\b(?:(?:sinus|ventricular|heart|cardiac)\s+)*rhythm\b"),
    ("subject", _WAVES, r"\bST\s*[-/–]\s*T\b(?:[-\s]+waves?)?(?:[-\s]+segments?)?"),
    ("subject", ("st",), r"\bST\b(?:[-\s]+segments?)?|\bJ[-\s]points?\b"),
    ("subject", ("t",), r"\bT[-\s]+waves?\b|\bT\b(?=[-\s]+(?:inversion|and\s+ST))"),
    ("finding", (("t", "inverted"),), r"\bTWI\b"),
    (
        "maybe_before",
        None,
        r"\b(?:can\s?not|can't|could\s+not)\s+be\s+(?:(?:ruled|excluded)(?:\s+out)?)|\bnot\s+(?:ruled\s+out|excluded)",
    ),
    (
        "maybe_before",
        None,
        r"\b(?:is|are|was|were|seems?)\s+(?:possible|suspected|questionable|uncertain|equivocal|likely|probable)\b",
    ),
    ("maybe", None, r"\b(?:can\s?not|can't|could\s+not)\s+(?:rule\s+out|exclude)"),
    (
        "maybe",
        None,
        r"\b(?:possibl[ey]|probabl[ey]|likely|maybe|perhaps|may|might|could|suggest\w*|questionable|borderline|suspicio\w+|suspected|equivocal|consider)\b",
    ),
    (
        "not_before",
        None,
        r"\b(?:is|are|was|were)\s+(?:ruled\s+out|excluded)|\babsent\b|\bnot\s+(?:seen|present|noted|evident|observed|identified|found|met|detected|visible|fulfilled|recorded|there)\b",
    ),
    (
        "not",
        None,
        r"\bno\s+(?:evidence|signs?|indications?|features?)\s+(?:of|for)|\b(?:no|not|without|neither|nor|never|lacks?|rather\s+than|instead\s+of|absence\s+of|free\s+of|\w+n't)\b",
    ),
    (
        "state",
        _NORMAL,
        r"\b(?:within\s+(?:the\s+)?(?:normal\s+(?:limits|range)|limits\s+of\s+normal)|normal(?:\s+in\s+range)?|unremarkable|WNL|physiological)\b",
    ),
    ("state", {"rhythm": "irregular"}, r"\b(?:irregular(?:ly)?(?:\s+irregular)?|regularly\s+irregular)\b"),
    ("state", {"rhythm": "regular"}, r"\bregular(?:ly)?\b"),
    ("state", {"rhythm": "irregular", "rr": ""}, r"\b(?:var(?:y|ies|ying|iable)|unequal)\b"),
    ("state", {"rhythm": "regular", "rr": ""}, r"\b(?:constant|equal)\b"),
    ("state", _long("prolonged", "pr", "qt", "qtc") | {"qrs": "wide"}, r"\b(?:prolonged|long|lengthened|extended)\b"),
    (
        "state",
        _long("prolonged", "pr", "qt", "qtc") | {"qrs": "wide", "voltage": "high", "rate": "fast"},
        r"\bincreased\b",
    ),
    ("state", _long("short", "pr", "qt", "qtc"), r"\bshort(?:ened)?\b"),
    ("state", {"qrs": "wide"}, r"\b(?:wide(?:ned)?|broad(?:ened)?)\b"),
    ("state", {"qrs": "normal"}, r"\bnarrow\b"),
    ("state", {"rate": "slow", "voltage": "low"}, r"\b(?:slow|low|reduced|decreased)\b"),
    ("state", {"rate": "fast"}, r"\b(?:fast|rapid)\b"),
    ("state", {"rate": "fast", "voltage": "high"}, r"\bhigh\b"),
    ("state", {"st": "elevated", "rate": "fast"}, r"\b(?:elevated|raised)\b"),
    ("state", {"st": "depressed"}, r"\bdepressed\b"),
    ("state", {"st": "normal"}, r"\b(?:isoelectric|at\s+(?:the\s+)?baseline)\b"),
    ("state", {"t": "inverted"}, r"\b(?:inverted|negative)\b"),
    ("state", {"t": "normal"}, r"\b(?:upright|positive)\b"),
    ("state", {"axis": "left"}, r"\b(?:leftwards?|(?:to|towards?)\s+the\s+left)\b"),
    ("state", {"axis": "right"}, r"\b(?:rightwards?|(?:to|towards?)\s+the\s+right)\b"),
    ("state", _ABNORMAL, r"\babnormal\b"),
    ("noun", {"st": "elevated"}, r"\belevations?\b"),
    ("noun", {"st": "depressed"}, r"\bdepressions?\b"),
    ("noun", {"t": "inverted"}, r"\binversions?\b"),
    ("noun", _long("prolonged", "pr", "qt", "qtc") | {"qrs": "wide"}, r"\b(?:prolongation|lengthening)\b"),
    ("noun", {"qrs": "wide"}, r"\b(?:widening|broadening)\b"),
    ("noun", _long("short", "pr", "qt", "qtc"), r"\bshortening\b"),
    ("noun", _ABNORMAL, r"\b(?:changes?|abnormalit(?:y|ies)|deviations?)\b"),
    ("noun", {"t": "flat"}, r"\b(?:flattening|flat(?:tened)?)\b"),
    ("value", None, _VALUE),
    (
        "territory",
        None,
        rf"\b(?:{'|'.join((*TERRITORIES, *_SAME_TERRITORY)).replace(' ', '[- ]')})\b(?:\s+leads?\b|\s+(?:territory|wall|region)\b)?",
    ),
    ("break", None, r"\b(?:but|however|although|though|whereas|while|yet)\b|[;|]|</?\w+>"),
    ("comma", None, r","),
    ("or", None, r"\b(?:or)\b"),
    ("and", None, r"\band\b|&|/"),
    ("with", None, r"\b(?:with|on|in|at|of|for|by|to|due)\b"),
    (
        "filler",
        None,
        r"\b(?:is|are|was|were|be|been|a|an|the|its|this|that|which|it|about|around|approximately|approx|circa|roughly|measur\w+|estimated|calculated|appears?|seems?|remains?|shows?|slight(?:ly)?|mild(?:ly)?|marked(?:ly)?|moderate(?:ly)?|minor|significant(?:ly)?|severely|clearly|also|falls?|lies?|both|still|now|noted|found|considered|shifted|deviates?|deviated|directed|interval|duration|wave|waves|segment|segments|all)\b|[:=()~.]",
    ),
    ("word", None, r"[^\W_]+(?:'\w+)?"),
)
_SCANNER = re.compile(
    "|".join(
        f"(?P<k{n}>{re.sub(r'[?]P<(from|until|low|high|unit|join|bound|count)>', '?:', pattern)})"
        for n, (_, _, pattern) in enumerate(_TERMS)
    ),
    re.IGNORECASE,
)
_VALUE_PARTS = re.compile(_VALUE, re.IGNORECASE)
_COUNT_PART = re.compile(_PREMATURE, re.IGNORECASE)


def tokens_of(text: str, start: int, end: int) -> list[Token]:
    """The tokens of a stretch of a text."""
    found = []
    for match in _SCANNER.finditer(text, start, end):
        kind, payload, _ = _TERMS[int(match.lastgroup[1:])]
        words = match.group()
        if kind == "value":
            payload = _value(_VALUE_PARTS.match(text, match.start(), end))
        elif kind == "premature":
            count = _COUNT_PART.match(text, match.start(), end)["count"]
            payload = None if count is None else _count(count)
        elif kind == "leads" and payload is None:
            payload = lead_list(words)
            if not _stands_for_leads(text, match, words):
                kind = "word"
        elif kind == "territory":
            payload = _territory(words)
        found.append(Token(kind, payload, words, match.start(), match.end()))
    return found


def _count(words: str) -> int:
    words = " ".join(words.lower().split())
    return int(words) if words.isdigit() else _NUMBER_WORDS.get(words, _NUMBER_WORDS.get(words.split()[-1], 1))


def _stands_for_leads(text: str, match: re.Match, words: str) -> bool:
    """Whether a lone "I" is the lead and not the pronoun."""
    return words.lower() != "i" or bool(
        re.search(
            r"(?:\b(?:in|and|or|lead)|[,/])\s*$", text[max(0, match.start() - 12) : match.start()], re.IGNORECASE
        )
    )


def lead_list(words: str) -> tuple[str, ...]:
    """The leads of a list such as "V2-V4", "II, III and aVF" or "v4,5,6", in its order."""
    parts = re.findall(
        rf"{_LEAD}\b|[1-6]|[-–]|\bto\b|\bthrough\b",
        re.sub(r"\bleads?\b|\bin\b", " ", words, flags=re.IGNORECASE),
        re.IGNORECASE,
    )
    leads: list[str] = []
    is_range = False
    for part in parts:
        if part in ("-", "–") or part.lower() in ("to", "through"):
            is_range = True
            continue
        name = f"V{part}" if part.isdigit() else _spelled(part)
        if is_range and leads and leads[-1][0] == name[0] == "V":
            leads += [f"V{number}" for number in range(int(leads[-1][1]) + 1, int(name[1]))]
        leads.append(name)
        is_range = False
    return tuple(dict.fromkeys(leads))


def _spelled(lead: str) -> str:
    lead = lead.upper()
    return f"aV{lead[2]}" if lead.startswith("AV") else lead


def _territory(words: str) -> tuple[str, bool]:
    """The name of a territory, and whether the words say that leads or a wall are meant."""
    parts = re.split(r"\s+(?=leads?\b|territory\b|wall\b|region\b)", words.lower())
    name = re.sub(r"[-\s]+", " ", parts[0])
    return _SAME_TERRITORY.get(name, name), len(parts) > 1 and not parts[1].startswith("wall")


def _value(match: re.Match) -> dict:
    """`low` and `high` (None: no bound), the unit as `bpm`, `ms`, `mV`, `°` or None, and whether it is a pair ("380/410")."""
    words = (match["from"], match["until"]) if match["from"] else (match["low"], match["high"])
    low, high = (float(part.replace("−", "-")) if part else None for part in words)
    unit = (match["unit"] or "").lower()
    is_pair = match["join"] == "/" and high is not None
    factor, name = 1.0, None
    if re.fullmatch(_BPM, unit, re.IGNORECASE):
        name = "bpm"
    elif unit.startswith(("ms", "millis")):
        name = "ms"
    elif unit.startswith("s"):
        factor, name = 1000.0, "ms"
    elif unit in ("mv",) or unit.startswith("millivolt"):
        name = "mV"
    elif unit.startswith(("mm", "millim")):
        factor, name = 0.1, "mV"
    elif unit:
        name = "°"
    # The last digit that is given, half of which is added to the tolerance; a whole number of ms or beats is exact.
    digits = len(words[0].partition(".")[2])
    step = factor * 10.0**-digits if digits or name == "mV" else 0.0
    low, high = (None if one is None else round(one * factor, 6) for one in (low, high))
    bound = (match["bound"] or "").lower()
    if bound and high is None:
        is_above = re.fullmatch(_ABOVE, bound, re.IGNORECASE) is not None
        low, high = (low, None) if is_above else (None, low)
    elif high is None:
        high = low
    return {"low": low, "high": high, "unit": name, "pair": is_pair, "step": step}
