"""What model tests start from: an untrained model of the real class with a few thousand parameters, and a few stories."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from storyreason import dataset, sample
from storyreason.sample import untrained

Bases = Callable[[str], Path]
"""The folder of a tiny base of a family, by its `model_type`."""


@pytest.fixture(scope="session")
def tiny_examples() -> list[dataset.Example]:
    """Sixteen stories of eight films."""
    return list(sample.examples("train", seed=3, films=8))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory, tiny_examples: list[dataset.Example]) -> Path:
    """The same as a data folder, with a train split alone."""
    folder = tmp_path_factory.mktemp("tiny-data")
    dataset.write(tiny_examples, folder, "train")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_bases: Bases) -> Path:
    """An untrained base model's folder."""
    return tiny_bases("qwen2_5_vl")


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory, tiny_examples: list[dataset.Example]) -> Bases:
    """An untrained base model's folder for each family (`architecture.FAMILIES`), made when it is first asked for."""

    @cache
    def folder(family: str) -> Path:
        return untrained.write(tmp_path_factory.mktemp("tiny") / "base", tiny_examples, family=family)

    return folder


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing more than `size` bytes to a file fails in this process and its children, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
