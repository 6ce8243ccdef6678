"""A run's name says what differs from its preset; what changes no weight changes neither name nor fingerprint."""

from storyreason import config
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


def test_where_it_is_trained_does_not_decide_the_weights() -> None:
    one, other = (
        training.fingerprint(config.load("sample", changed), "md5", "base")
        for changed in ([], ["training.devices=1", "training.free_memory_gb=3", "training.save_every=7"])
    )
    assert one == other
    assert one != training.fingerprint(config.load("sample", ["training.epochs=1"]), "md5", "base")
