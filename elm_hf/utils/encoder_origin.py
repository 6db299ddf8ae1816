"""What the configuration of a published encoder tells about its weights: their licence and their training data."""

from collections.abc import Iterable
from typing import TYPE_CHECKING


if TYPE_CHECKING:  # it needs torch
    from transformers import PreTrainedConfig


UNKNOWN_LICENSE = "unknown"


def license_warning(config: "PreTrainedConfig | None") -> str | None:
    """
    What a user must know about the licence of an encoder's weights.

    Args:
        config: configuration of an encoder. Only the published encoders that `elm-hf convert` reads have a licence.

    Returns:
        A sentence if the licence does not permit commercial use, or none is stated; otherwise None.
    """
    license = None if config is None else config.to_dict().get("license")
    if license == UNKNOWN_LICENSE:
        return (
            "no licence is stated for its weights. Neither they nor the new model may be published or used "
            "commercially without the authors' permission."
        )
    if license is not None and "-nc" in license:
        return (
            f"the licence of its weights, {license}, does not permit commercial use. It also applies to the new model."
        )
    return None


def known_sources(config: "PreTrainedConfig | None", sources: Iterable[str]) -> list[str]:
    """
    The datasets on whose ECGs an encoder was trained, test patients included, before it was published.

    Args:
        config: configuration of an encoder; None for no encoder.
        sources: column `source` of the ECGs' records.

    Returns:
        Sorted names of those of `sources` that the encoder knows.
    """
    known = set() if config is None else set(config.to_dict().get("pretraining_data") or ())
    return sorted(known.intersection(sources))


def known_sources_message(names: list[str]) -> str:
    """The warning about the result of [`known_sources`]."""
    return (
        f"the encoder was trained on {', '.join(names)} before it was published, with the test patients of every fold: "
        "scores on these ECGs are not scores on unseen patients"
    )
