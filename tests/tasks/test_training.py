"""A run's name says what differs from its preset; what changes no weight changes neither name nor fingerprint."""

from pathlib import Path

from storyreason import config
from storyreason.training import launch
from tasks import training


def test_a_runs_name_says_what_differs() -> None:
    changed = ["training.learning_rate=5e-4", "data.train_stories=9", "gate.min_stories=5", "training.devices=0"]

    assert training.run_name(config.load("sample"), "0123456789") == "sample 012345"
    assert (
        training.run_name(config.load("sample", changed), "0123456789")
        == "sample data.train_stories=9 learning_rate=0.0005 012345"
    )


def test_a_preset_of_somebodys_own_is_told_by_what_differs_from_the_defaults() -> None:
    mine = config.RunConfig.model_validate({"name": "mine", "training": {"epochs": 7}})
    assert training.run_name(mine, "0123456789") == "mine epochs=7.0 012345"


def test_what_accelerates_file_says_decides_the_weights_and_not_where_it_lies_or_where_processes_meet(
    tmp_path: Path,
) -> None:
    def named(file: str) -> str:
        return training.fingerprint(config.load("sample", [f"training.accelerate={file}"]), "md5", "base")

    own = tmp_path / "own.yaml"
    text = (launch.CONFIGS / "fsdp2-2gpu.yaml").read_text()
    own.write_text(text)
    assert named(str(own)) == named("fsdp2-2gpu")
    own.write_text(f"{text}main_process_ip: 10.0.0.1\nmain_process_port: 29501\n".replace("rank: 0", "rank: 1"))
    assert named(str(own)) == named("fsdp2-2gpu")
    for before, after in (
        ("num_processes: 2", "num_processes: 4"),
        ('"bf16"', '"no"'),
        ("params: true", "params: false"),
    ):
        assert before in text
        own.write_text(text.replace(before, after))
        assert named(str(own)) != named("fsdp2-2gpu")


def test_where_it_is_trained_does_not_decide_the_weights() -> None:
    one, other = (
        training.fingerprint(config.load("sample", changed), "md5", "base")
        for changed in ([], ["training.devices=1", "training.free_memory_gb=3", "training.save_every=7"])
    )
    assert one == other
    assert one != training.fingerprint(config.load("sample", ["training.epochs=1"]), "md5", "base")
