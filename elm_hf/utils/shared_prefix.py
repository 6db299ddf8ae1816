"""The longest prefix that token sequences share and that cuts no ECG in two."""

from collections.abc import Callable, Sequence

import numpy as np


# Number of ECGs whose tokens stand in an array of token ids; with a fraction where an ECG is there in part.
CountEcgs = Callable[[np.ndarray], float]


def shared_prefix_length(sequences: Sequence[np.ndarray], longest: int, count_ecgs: CountEcgs) -> int:
    """
    Number of tokens that all sequences begin with and that hold whole ECGs only.

    Args:
        sequences: token ids, each `(length,)`.
        longest: largest number of tokens that the prefix may have; none where it is below 0.
        count_ecgs: see [`CountEcgs`].
    """
    longest = max(0, min([longest, *map(len, sequences)]))
    ids = np.stack([sequence[:longest] for sequence in sequences])
    differs = np.flatnonzero((ids != ids[0]).any(axis=0))
    return whole_ecgs(ids[0], differs[0] if len(differs) else longest, count_ecgs)


def whole_ecgs(ids: np.ndarray, length: int, count_ecgs: CountEcgs) -> int:
    """`length`, or less where a prefix of that length of the token ids `(n,)` would cut an ECG in two."""
    while count_ecgs(ids[:length]) % 1:
        length -= 1
    return int(length)
