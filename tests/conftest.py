"""Fixtures shared by the tests."""

from pathlib import Path

import numpy as np
import pytest
import torch


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real ECGs beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real ECGs at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two test processes share two cores."""
    torch.set_num_threads(1)


@pytest.fixture
def ecgs() -> np.ndarray:
    """Three different 12-lead ECGs of 500 samples in mV (noise: shapes matter here, not hearts)."""
    return np.random.default_rng(0).normal(0, 0.3, (3, 12, 500)).astype(np.float32)
