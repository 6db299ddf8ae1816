"""Digest of source code, used as part of cache keys, so that a cache is not used after the code has changed."""

import hashlib
from functools import cache
from importlib import import_module
from pathlib import Path

from elm_hf import modeling


@cache
def source_digest(module: str) -> str:
    """Return a digest (16 hexadecimal digits) of the source of a module and of all modules of `elm_hf.modeling`."""
    digest = hashlib.sha256(Path(import_module(module).__file__).read_bytes())
    for path in sorted(Path(modeling.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
