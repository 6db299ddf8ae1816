"""Pseudonyms of patients and recordings: keyed hashes, with a key that is kept apart from the datasets."""

import hmac
import logging
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path


logger = logging.getLogger(__name__)

KEY_SIZE = 32  # bytes, written as hexadecimal digits
_PSEUDONYM = re.compile("[pr][0-9a-f]{16}")


@dataclass(frozen=True)
class Pseudonyms:
    """
    The pseudonyms of a key: HMAC-SHA256 (RFC 2104) of the id, cut to 64 bits. Without the key, nobody can tell whether a
    pseudonym belongs to an id that they guess. The same key gives the same pseudonyms in every build.

    Attributes:
        key: secret key of `KEY_SIZE` bytes.
    """

    key: bytes

    def patient(self, patient_id: str) -> str:
        """The pseudonym of a patient: `p` and 16 hexadecimal digits, so that no spreadsheet takes it for a number."""
        return "p" + self._digest("patient", patient_id, 16)

    def recording(self, recording_id: str) -> str:
        """The pseudonym of a recording: `r` and 16 hexadecimal digits."""
        return "r" + self._digest("recording", recording_id, 16)

    @property
    def key_id(self) -> str:
        """A fingerprint of the key, by which datasets of the same key are recognized. It does not reveal the key."""
        return self._digest("key", "", 8)

    def _digest(self, kind: str, name: str, digits: int) -> str:
        message = f"elm-hf {kind}\0{name}".encode("utf-8", "surrogatepass")
        return hmac.digest(self.key, message, "sha256").hex()[:digits]


def is_pseudonym(name: str) -> bool:
    """Whether an id has the form of a pseudonym."""
    return _PSEUDONYM.fullmatch(name) is not None


def default_key_path() -> Path:
    """The place of the key in the user's folder: `~/.config/elm-hf/pseudonyms.key`, or below `XDG_CONFIG_HOME`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "elm-hf" / "pseudonyms.key"


def load_pseudonyms(path: str | os.PathLike | None, output: Path) -> Pseudonyms:
    """
    Load the key of the pseudonyms, or make one where there is none yet.

    Args:
        path: file of the key. Defaults to `default_key_path()`.
        output: folder of the dataset, which must not contain the key.

    Raises:
        ValueError: the file is inside the folder of the dataset, or contains no key.
    """
    path = default_key_path() if path is None else Path(path)
    if path.resolve().is_relative_to(output.resolve()):
        raise ValueError(
            f"{path}: the key of the pseudonyms must be outside of the dataset, {output}: whoever has both can test guesses "
            "of patient ids; give another file (--key)"
        )
    if not path.exists():
        _make_key(path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise ValueError(
            f"{path}: not a key of pseudonyms; expected {2 * KEY_SIZE} hexadecimal digits. Give the file of a key, or a new "
            "file, in which a key is made (--key)"
        )
    return Pseudonyms(key)


def _make_key(path: Path) -> None:
    """Make a key that only its owner can read. Of several processes, the first one makes it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, unfinished = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_bytes(KEY_SIZE).hex() + "\n")
        os.link(unfinished, path)
    except FileExistsError:
        return
    finally:
        os.unlink(unfinished)
    logger.warning(
        "%s: made a new key of pseudonyms. Keep it, apart from the datasets: with another key, the same patients and "
        "recordings get other ids, and a lost key cannot be restored",
        path,
    )
