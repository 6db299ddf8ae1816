"""The source code that a cache's content came from, so that nothing computed by other code is read from it."""

import hashlib
from functools import cache
from importlib import import_module
from pathlib import Path

from elm_hf import modeling


@cache
def source_digest(module: str) -> str:
    """16 hexadecimal digits of the source of a module (such as `__name__`) and of all in `elm_hf.modeling`."""
    digest = hashlib.sha256(Path(import_module(module).__file__).read_bytes())
    for path in sorted(Path(modeling.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
