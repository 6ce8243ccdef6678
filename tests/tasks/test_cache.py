"""A version on a machine that did not register it: fetched when it is needed, within bounds, never at the cost of what serves."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.logging import disable_run_logger

from storyreason import adapters, config, model, runs
from storyreason.errors import RegistryError
from storyreason.serving import state
from tasks import artifacts, cache, cleaning, registry, tracking
from tasks.data import Base
from tasks.registry import Version
from tasks.results import Trained
from tests.adapting import write_result
from tests.tiny import tiny_base, tiny_bases, tiny_examples  # noqa: F401 (fixtures)


@dataclass
class Machines:
    """Two machines with one MLflow and one store: they share no other path, so `leave` takes the first one's folders away."""

    here: Path
    use: Callable[[str], Path]
    base: Base

    def register(self, seed: int, form: str = "adapter", stored: bool = True) -> Version:
        """Train (as far as the registry sees it) and register a version on the machine in use."""
        chosen = config.load("smoke", [f"registry.form={form}", "training.mode=lora", "base.name=a-base"])
        place = runs.root().parent / f"training-{seed}"
        result = write_result(Path(self.base.folder), place / "result", seed)
        (place / "training_stories.json").write_text(f'["{seed}"]')
        run_id = tracking.open_run("train", f"training {seed}", "smoke", {}, {})
        trained = Trained((), fingerprint=f"training {seed}", result=result, run_id=run_id, data_md5="")
        with disable_run_logger(), pytest.MonkeyPatch.context() as patch:
            if not stored:
                patch.setenv("STORYREASON_ARTIFACTS", "")
            made = registry.register.compute(chosen, self.base, trained)
        return registry.version(made.name, made.number)

    def end(self) -> None:
        """End of the process that has used versions: what it held is free."""
        for held in cache.HELD.values():
            os.close(held)
        cache.HELD.clear()

    def leave(self) -> None:
        """Take the first machine away."""
        shutil.move(self.here / "first", self.here / "gone")


@pytest.fixture
def machines(
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mlflow_store: None,
) -> Iterator[Machines]:
    monkeypatch.setenv("STORYREASON_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setenv("STORYREASON_MLFLOW_ARTIFACTS", str(tmp_path / "mlflow-artifacts"))

    def use(name: str) -> Path:
        monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / name / "runs"))
        return runs.root()

    use("first")
    folder = shutil.copytree(tiny_base, tmp_path / "first" / "base")
    made = Machines(tmp_path, use, Base(str(folder), model.load_identity(str(folder))))
    yield made
    made.end()


def limit(monkeypatch: pytest.MonkeyPatch, bytes_: int) -> None:
    monkeypatch.setenv("STORYREASON_CACHE_GB", str(bytes_ / 1e9))


def test_a_version_is_fetched_whole_with_its_base_where_it_was_not_registered(machines: Machines) -> None:
    first = machines.register(1)
    second = machines.register(2)
    merged = machines.register(3, form="merged")
    before = {path.name: path.read_bytes() for path in Path(first.folder).iterdir() if path.is_file()}
    assert first.stored and first.base and first.base == second.base and merged.base is None
    machines.leave()
    there = machines.use("second")
    assert not Path(registry.version("storyteller-smoke", "1").folder).exists()

    found = registry.with_weights("storyteller-smoke", "1")
    assert Path(found.folder) == there / "models" / first.identity / "model"
    assert {path.name: path.read_bytes() for path in Path(found.folder).iterdir() if path.is_file()} == before
    assert (Path(found.folder).parent / "training_stories.json").read_text() == '["1"]'
    one, two = (adapters.of(registry.with_weights("storyteller-smoke", number).folder) for number in "12")
    assert one and two and one.base == two.base == str(there / "bases" / machines.base.identity)
    assert model.load_identity(one.base) == machines.base.identity
    whole = registry.with_weights("storyteller-smoke", "3")
    assert model.load_identity(whole.folder) and adapters.of(whole.folder) is None
    # And is found there from then on, without the store
    shutil.rmtree(machines.here / "store")
    assert registry.with_weights("storyteller-smoke", "1") == found
    names = {tag for tags in MlflowClient().search_model_versions() for tag in tags.tags.values()}
    assert not [name for name in names if str(machines.here) in name]


def test_the_version_used_longest_ago_makes_room_and_what_serves_stays(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [machines.register(seed, form="merged").stored.bytes for seed in (1, 2, 3, 4)]  # type: ignore[union-attr]
    machines.leave()
    there = machines.use("second")
    limit(monkeypatch, int(2.5 * max(sizes)))

    def use(number: str) -> Version:
        found = registry.with_weights("storyteller-smoke", number)
        used = Path(found.folder).with_name(cache.USED)
        os.utime(used, (int(number), int(number)))
        machines.end()
        return found

    first, second = use("1"), use("2")
    state.write_served(state.Served(first.folder, "1", None, ""))
    third = use("3")
    assert Path(first.folder).exists() and Path(third.folder).exists() and not Path(second.folder).exists()
    state.write_served(state.Served(third.folder, "3", None, ""), "another")
    with pytest.raises(RegistryError, match=r"The version needs .* GB, and of the .* raise STORYREASON_CACHE_GB"):
        use("4")
    limit(monkeypatch, max(sizes) - 1)
    with pytest.raises(RegistryError, match="raise STORYREASON_CACHE_GB, serve less here, or wait"):
        use("2")
    assert {path.name for path in (there / "models").iterdir()} == {first.identity, third.identity, ".lock"}


def test_what_a_process_loads_does_not_make_room_for_another_version(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for its folder (an evaluation, `tell`, a notebook) may read it for as long as the process runs."""
    sizes = [machines.register(seed, form="merged").stored.bytes for seed in (1, 2, 3)]  # type: ignore[union-attr]
    machines.leave()
    machines.use("second")
    limit(monkeypatch, int(1.5 * max(sizes)))
    loaded = Path(registry.with_weights("storyteller-smoke", "1").folder)
    os.utime(loaded.with_name(cache.USED), (1, 1))
    with pytest.raises(RegistryError, match="or wait for what loads a version"):
        registry.with_weights("storyteller-smoke", "2")
    assert not cache.remove(loaded.parent) and (loaded / "config.json").is_file()
    machines.end()
    registry.with_weights("storyteller-smoke", "2")
    assert not loaded.exists()
    # One that is being removed is fetched again, not loaded by halves
    machines.end()
    held = Path(registry.with_weights("storyteller-smoke", "3").folder)
    machines.end()
    with runs.unused(held.with_name(cache.USED)):
        assert not cache.hold(str(held))


def test_one_that_was_not_stored_says_so_and_is_stored_where_it_is_used_next(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = machines.register(1, stored=False)
    assert version.stored is None
    machines.use("second")
    with pytest.raises(RegistryError, match="The weights of storyteller-smoke version 1 are gone from"):
        registry.with_weights("storyteller-smoke", "1")
    machines.use("first")
    registry.with_weights("storyteller-smoke", "1")
    machines.use("second")
    assert Path(registry.with_weights("storyteller-smoke", "1").folder).exists()


def test_a_store_that_is_away_does_not_keep_a_machine_from_what_it_has(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = machines.register(1)
    monkeypatch.setenv("STORYREASON_ARTIFACTS", "gopher://x")
    said: list[str] = []
    assert registry.fetched(version, said.append) == version
    assert "is not stored for other machines: STORYREASON_ARTIFACTS=gopher://x cannot be used" in said[0]
    machines.use("second")
    with pytest.raises(RegistryError, match="cannot be used"):
        registry.with_weights("storyteller-smoke", "1")


def test_cleaning_removes_from_the_store_only_what_no_version_has(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    kept = machines.register(1)
    deleted = machines.register(2)
    MlflowClient().delete_model_version(deleted.name, deleted.number)
    assert not [item for item in cleaning.plan(keep=1) if item.stored]  # not yet: another machine may be registering it
    monkeypatch.setattr(cleaning, "UNREGISTERED", -60.0)
    items = [item for item in cleaning.plan(keep=1) if item.stored]
    assert len(items) == 4  # its weights, card and stories, and their list; the rest it shares with the other
    cleaning.remove(items)
    machines.leave()
    machines.use("second")
    assert Path(registry.with_weights(kept.name, kept.number).folder).exists()


def test_a_fetch_of_another_base_goes_with_the_version_that_needed_it(machines: Machines) -> None:
    from tasks import bases

    machines.register(1)
    machines.leave()
    machines.use("second")
    found = registry.with_weights("storyteller-smoke", "1")
    assert bases.unreferenced(older=-60) == []
    machines.end()
    cache.remove(Path(found.folder).parent)
    assert [path.name for path in bases.unreferenced(older=-60)] == [machines.base.identity]
    assert artifacts.is_whole(found.base) if found.base else False
