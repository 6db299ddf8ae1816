"""How prompts are augmented with similar ECGs."""

from dataclasses import dataclass


CONTENTS = ("report", "features")
LOCATIONS = ("system", "user")


@dataclass(frozen=True)
class RetrievalOptions:
    """
    How prompts are augmented with neighbours.

    Args:
        index: folder that `build_index` made.
        k: number of neighbours for each ECG.
        content: `"report"` or `"features"`.
        location: `"system"` appends them to the system message, `"user"` puts them after the ECGs.

    Raises:
        ValueError: another content or location, or fewer than 1 neighbour.
    """

    index: str
    k: int = 3
    content: str = "report"
    location: str = "user"

    def __post_init__(self):
        if self.content not in CONTENTS or self.location not in LOCATIONS or self.k < 1:
            raise ValueError(
                f"retrieval takes content {' or '.join(CONTENTS)}, location {' or '.join(LOCATIONS)} and at least 1 "
                f'neighbour; got "{self.content}", "{self.location}" and {self.k}'
            )
