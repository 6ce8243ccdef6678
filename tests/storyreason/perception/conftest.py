"""Made films that several test files look at."""

from pathlib import Path

import pytest

from storyreason.perception import filming
from storyreason.sample import movie


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two made films, and their frames in `frames/`."""
    folder = tmp_path_factory.mktemp("made")
    for seed in (7, 8):
        movie.write(folder, seed, shots=4)
    filming.extract([folder], folder / "frames")
    return folder
