"""The longest common prefix of token sequences that does not cut an ECG."""

from collections.abc import Callable, Sequence

import numpy as np


# A function that returns the number of ECGs in an array of token ids. It is not an integer if an ECG is incomplete.
CountEcgs = Callable[[np.ndarray], float]


def shared_prefix_length(sequences: Sequence[np.ndarray], longest: int, count_ecgs: CountEcgs) -> int:
    """
    Return the length of the longest common prefix of all sequences that contains complete ECGs only.

    Args:
        sequences: token ids, each `(length,)`.
        longest: maximum length of the prefix; a negative value counts as 0.
        count_ecgs: see [`CountEcgs`].
    """
    longest = max(0, min([longest, *map(len, sequences)]))
    ids = np.stack([sequence[:longest] for sequence in sequences])
    differs = np.flatnonzero((ids != ids[0]).any(axis=0))
    return whole_ecgs(ids[0], differs[0] if len(differs) else longest, count_ecgs)


def whole_ecgs(ids: np.ndarray, length: int, count_ecgs: CountEcgs) -> int:
    """Reduce `length` until the prefix of this length of the token ids `(n,)` does not cut an ECG."""
    while count_ecgs(ids[:length]) % 1:
        length -= 1
    return int(length)
