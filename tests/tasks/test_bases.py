"""The bases of adapters: kept once, and compared with what an adapter was trained over."""

import shutil
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from storyreason import adapters, config, model, runs
from storyreason.errors import ModelError
from tasks import bases, registry, tracking
from tasks.data import Base
from tasks.results import Trained
from tests.adapting import rewrite_identity, write_folder, write_result
from tests.tiny import tiny_base, tiny_bases, tiny_examples  # noqa: F401 (fixtures)


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:  # noqa: F811
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    return Base(str(folder), model.load_identity(str(folder)))


def test_a_base_is_kept_once_by_its_content_and_outlives_its_folder(base: Base) -> None:
    kept = Path(bases.keep(base))
    inode = (kept / "model.safetensors").stat().st_ino
    assert (
        kept == runs.root() / "bases" / base.identity
        and inode == (Path(base.folder) / "model.safetensors").stat().st_ino
    )
    assert bases.keep(base) == str(kept) and (kept / "model.safetensors").stat().st_ino == inode
    assert [path.name for path in kept.parent.iterdir()] == [base.identity]
    shutil.rmtree(base.folder)
    assert model.load_identity(str(kept)) == base.identity
    assert bases.keep(Base("Qwen/Qwen2.5-VL-7B-Instruct", "0")) == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_an_adapter_of_another_base_is_refused(base: Base, tmp_path: Path) -> None:
    folder = write_folder(Path(base.folder), tmp_path / "model")
    bases.check(str(folder))
    bases.check(base.folder)  # whole weights have no base
    rewrite_identity(folder, "0123456789abcdef")
    with pytest.raises(ModelError, match=rf"over a base with the content 0123456789abcdef, and .* has {base.identity}"):
        bases.check(str(folder))


def test_versions_in_the_form_of_adapters_share_their_base(base: Base, tmp_path: Path, mlflow_store: None) -> None:
    chosen = config.load("smoke", ["registry.form=adapter", "training.mode=lora", "base.name=a-base"])
    found = []
    for seed in (1, 2):
        result = write_result(Path(base.folder), tmp_path / f"training-{seed}" / "result", seed)
        (result.parent / "training_stories.json").write_text("[]")
        run_id = tracking.open_run("train", f"training {seed}", "smoke", {}, {})
        trained = Trained((), fingerprint=f"training {seed}", result=result, run_id=run_id, data_md5="")
        with disable_run_logger():
            made = registry.register.compute(chosen, base, trained)
        version = registry.with_weights(made.name, made.number)
        found.append(adapters.of(version.folder))
    # A run that was killed when it had written a model folder still keeps what the model was trained on, for the gate
    stories = Path(version.folder).with_name("training_stories.json")
    stories.unlink()
    with disable_run_logger():
        registry.register.compute(chosen, base, trained)
    assert stories.read_text() == "[]"
    one, two = found
    assert one is not None and two is not None and one.folder != two.folder
    assert one.base == two.base == str(runs.root() / "bases" / base.identity)
    assert runs.size(one.folder) < runs.size(Path(one.base))
    # Merged, it would be another version
    merged = chosen.model_copy(update={"registry": config.RegistryConfig()})
    assert registry.register.work(merged, base, trained).folder != registry.register.work(chosen, base, trained).folder
