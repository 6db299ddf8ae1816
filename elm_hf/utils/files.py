"""Files and checkpoints that are whole or not there: written beside their place and renamed."""

import shutil
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that nobody ever finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    unfinished = Path(file.name)
    unfinished.chmod(0o644)  # a temporary file is its owner's alone
    unfinished.replace(path)


def save_whole(parts: list, output: Path):
    """Saves everything in `output`, written beside it and renamed, so that a checkpoint is whole or not there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        for part in parts:
            part.save_pretrained(unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
