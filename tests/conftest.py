"""The order of the files, and fixtures of the whole session: an untrained model of the real class, frames, one vLLM."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from storyreason import dataset, sample
from storyreason.generation.vllm import VllmServer
from storyreason.serving.config import ServingConfig

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")  # each of DVC's commands would start a process that reports it

# A busy machine fails no property: what an example takes says nothing. The examples are the same in each run.
hypothesis.settings.register_profile(
    "patient", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, and those without a server last: two files run at a time, and end together."""
    slow = {item.path for item in items if item.get_closest_marker("server")}
    items.sort(key=lambda item: (item.path not in slow, "system" not in item.path.parts))


def write_untrained(folder: Path, seed: int = 0) -> Path:
    """A model folder as the tiny base's, with random weights: it answers, and it answers nonsense."""
    from storyreason.sample.base import new_model, vocabulary_texts
    from storyreason.sample.tokenizer import make_processor

    processor = make_processor(vocabulary_texts())
    new_model(processor, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("untrained") / "model")


@pytest.fixture(scope="session")
def examples() -> list[dataset.Example]:
    """Some stories of the sample world's test split."""
    return list(sample.examples("test", films=4))


@pytest.fixture(scope="session")
def frames(examples: list[dataset.Example]) -> tuple[bytes, ...]:
    """Five encoded frames of one film."""
    return examples[0].images[:5]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: its migrations take seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("empty-store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow_store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new MLflow store of this test alone, `mlflow.db` in its folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> ServingConfig:
    """Settings of an engine in the tests: small, and patient on a busy machine."""
    return ServingConfig(
        max_model_len=3072,
        startup_timeout=600,
        probe="none",
        drain_timeout=120,
        wait_timeout=600,
        models=str(tmp_path_factory.getbasetemp()),
    )


@pytest.fixture(scope="session")
def vllm_server(
    untrained: Path, serving: ServingConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    """The session's vLLM. A test that has to kill one starts its own."""
    with VllmServer(untrained, serving, log=tmp_path_factory.mktemp("vllm") / "vllm.log") as server:
        yield server
