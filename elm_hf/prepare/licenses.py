"""Licences of datasets: which may be published, and who may use what was published."""

import re
from dataclasses import dataclass


UNKNOWN_LICENSE = "unknown"
# Licences (identifiers of the Hub) that permit redistribution. For other licences, the user decides whether to publish
# signals.
FREE_LICENSES = frozenset(
    {"apache-2.0", "mit", "cc0-1.0", "odbl", "odc-by", "pddl", "cc-by-3.0", "cc-by-4.0"}
    | {"cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}
)
# Other identifiers of the Hub. A licence that is none of them is "other" with a name.
_OTHER_IDS = frozenset(
    {UNKNOWN_LICENSE, "other", "cc", "cc-by-nc-3.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cdla-permissive-2.0", "c-uda"}
)
# Licences of PhysioNet with a data use agreement that everyone signs for themselves, such as those of MIMIC-III, MIMIC-IV
# and MIMIC-CXR.
_CREDENTIALED = re.compile(r"credentialed|physionet.*restricted|\bmimic\b", re.IGNORECASE)


@dataclass(frozen=True)
class Credit:
    """
    A source that a dataset credits.

    Attributes:
        name, homepage, license, citation: as on the card. `license` is an identifier of the Hub, or words.
        is_own: whether it is the publisher's own data.
    """

    name: str
    homepage: str
    license: str
    citation: str
    is_own: bool = False

    @property
    def users(self) -> str:
        """Who may use the data, as a sentence."""
        return who_may_use(self.license)


def is_credentialed(license: str) -> bool:
    """Whether only people who signed a data use agreement may have the data, and may not pass them on."""
    return _CREDENTIALED.search(license) is not None


def who_may_use(license: str) -> str:
    """Who may use data under a licence, as a sentence."""
    if license == UNKNOWN_LICENSE:
        return "No licence is stated: nobody may use the data without asking their owner."
    if is_credentialed(license):
        return (
            "Only people with credentialed access to the source, who have signed its data use agreement, may use the data; "
            "nobody may pass them on."
        )
    if license not in FREE_LICENSES:
        return "The data may be used under the terms of their owner only."
    if "-nc" in license:
        return "Everybody may use the data under the terms of the licence, but not commercially."
    return "Everybody may use the data under the terms of the licence."


def license_fields(licenses: list[str]) -> dict:
    """The fields `license` and `license_name` of a card, in which the Hub accepts its own identifiers only."""
    known = [license if license in FREE_LICENSES | _OTHER_IDS else "other" for license in licenses]
    known = list(dict.fromkeys(known))
    names = [license for license in licenses if license not in FREE_LICENSES | _OTHER_IDS]
    fields = {"license": known[0] if len(known) == 1 else known}
    return fields | ({"license_name": ", ".join(names)} if names else {})
