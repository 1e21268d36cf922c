"""Real images to train on, decoded once for the session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cifake_core.training.epochs import Arrays


@pytest.fixture(scope="session")
def rows(trained_bundle: Path) -> Arrays:
    """32 images (32, 32, 32, 3) that the trained bundle knows, with labels in turn."""
    with np.load(trained_bundle / "parity.npz") as parity:
        return Arrays(parity["images"], np.arange(len(parity["images"])) % 2)
