"""Ages, dates and sexes as tables about patients contain them."""

import re
from datetime import date

from elm_hf.ecg.spreadsheet import to_number


SEXES = {
    **dict.fromkeys(("m", "male", "man", "männlich", "maennlich", "mann"), "male"),
    **dict.fromkeys(("f", "female", "woman", "w", "weiblich", "frau"), "female"),
}
# Parts of a year, by the words for a unit of age.
_YEARS = {
    **dict.fromkeys(("", "y", "yr", "yrs", "year", "years", "years old", "yo", "y/o", "jahre", "jahr", "j", "ans"), 1),
    **dict.fromkeys(("months", "month", "mo", "mos", "monate", "monat"), 1 / 12),
    **dict.fromkeys(("weeks", "week", "wk", "wks", "wochen", "woche"), 7 / 365.25),
    **dict.fromkeys(("days", "day", "d", "tage", "tag"), 1 / 365.25),
}
# Age String of DICOM (PS3.5, section 6.2): three digits and a unit.
_DICOM_YEARS = {"Y": 1, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_OLDEST = 130


def to_years(value: object) -> int:
    """
    An age in whole years, such as `63`, `"63,5"`, `"18 months"`, `"063Y"` (DICOM) or `"90+"`.

    Raises:
        ValueError: it is none. The message says what is expected.
    """
    text = str(value).strip()
    dicom = re.fullmatch(r"(\d{3})([YMWD])", text)
    found = re.fullmatch(r"(?:>\s*(?=89))?([\d.,]+)\s*\+?\s*([^\d+]*?)\.?", text)
    try:
        if dicom:
            years = int(dicom[1]) * _DICOM_YEARS[dicom[2]]
        else:
            years = to_number(found[1]) * _YEARS[found[2].strip().lower()]
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError('expected years, such as 63, or another unit, such as "18 months"') from error
    if text.startswith(">"):
        years += 1
    if not 0 <= years <= _OLDEST:
        raise ValueError(f"expected 0 to {_OLDEST} years")
    return int(years + 1e-9)


def to_date(value: object) -> date:
    """
    A date such as `1950-12-31`, `31.12.1950`, `19501231`, or `12/31/1950` if only one order of day and month is possible.

    Raises:
        ValueError: it is none, or the order of day and month is not certain. The message does not contain the date.
    """
    text = str(value).strip()
    for pattern, order in (
        (r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?:[ T].*)?", (1, 3, 4)),
        (r"(\d{4})(\d\d)(\d\d)", (1, 2, 3)),
        (r"(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})", (3, 2, 1)),
    ):
        found = re.fullmatch(pattern, text)
        if found:
            return _date(*(int(found[part]) for part in order))
    found = re.fullmatch(r"(\d{1,2})[-/](\d{1,2})[-/](\d{4})", text)
    if found:
        first, second, year = map(int, found.groups())
        if first != second and first <= 12 and second <= 12:
            raise ValueError("day or month may be first; write dates as 1950-12-31")
        return _date(year, *((second, first) if first > 12 else (first, second)))
    raise ValueError("expected a date such as 1950-12-31")


def _date(year: int, month: int, day: int) -> date:
    try:
        return date(year, month, day)
    except ValueError as error:
        raise ValueError("there is no such date; write dates as 1950-12-31") from error


def age_on(birth: date, day: date) -> int:
    """
    The age in years on a day.

    Raises:
        ValueError: it is negative or over 130 years.
    """
    years = day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))
    if not 0 <= years <= _OLDEST:
        raise ValueError(f"the dates give an age of {years} years")
    return years
