"""A process that reads MATLAB files for `array_files`, so that a damaged file cannot end the program."""

import numpy as np
import scipy.io

from elm_hf.modeling.reading_process import serve


def read(path: str, num_leads: int) -> tuple[dict, np.ndarray | None]:
    """The names and shapes of all arrays as `found`, and the only array with a row or column for each lead."""
    variables = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    found = ", ".join(f"{name} {np.shape(value)}" for name, value in variables.items())[:1000]
    fitting = [value for value in variables.values() if _fits(value, num_leads)]
    return {"found": found}, fitting[0] if len(fitting) == 1 else None


def _fits(value: object, num_leads: int) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "iuf" and num_leads in value.shape


if __name__ == "__main__":
    serve(read)
