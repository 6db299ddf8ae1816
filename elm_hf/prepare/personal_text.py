"""What text may say about persons: dates, and the names of those who confirmed a statement."""

import re


DATE, NAME = "[date]", "[name]"
_MONTH = (
    r"(?:jan|feb|mar|mär|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-zäéû]*\.?"  # English, German and others
)
_DATES = re.compile(
    r"(?<![\d.])(?:"
    r"(?:19|20)\d\d([-/.])\d{1,2}\1\d{1,2}"  # 2019-12-31
    r"|\d{1,2}([-/.])\d{1,2}\2(?:\d{4}|\d\d(?!\d))"  # 31.12.2019, 12/31/19
    rf"|\d{{1,2}}[-. ]{{0,2}}{_MONTH}[-. ,]{{0,2}}(?:\d{{4}}|\d\d(?!\d))"  # 31-DEC-2019
    rf"|{_MONTH} ?\d{{1,2}},? (?:19|20)\d\d"  # Dec 31, 2019
    r"|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"  # 20191231
    r")(?!\d)"
    r"(?:[ T,]{1,2}(?:at )?\d{1,2}:\d\d(?::\d\d)?(?: ?[ap]m)?)?",  # the time of the day behind it
    re.IGNORECASE,
)
_BY_SOMEONE = re.compile(
    r"\b((?:confirmed|reviewed|over-?read|interpreted|edited|verified|validated|referred|ordered|requested|signed)"
    r"(?: electronically)? by)\b:? *[^|]*?(?=\s*(?:\||$))",
    re.IGNORECASE,
)


def has_date(text: str) -> bool:
    """Whether a text contains what looks like a date."""
    return _DATES.search(text) is not None


def without_persons(text: str) -> str:
    """
    A statement of an electrocardiograph without dates and without the names behind "confirmed by" and the like.

    Args:
        text: such as "When compared with ECG of 12-JAN-2019 10:20, no change".
    """
    return _DATES.sub(DATE, _BY_SOMEONE.sub(rf"\1 {NAME}", text)).strip()
