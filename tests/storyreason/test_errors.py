"""What every message of ours keeps to itself."""

import pytest

from storyreason import errors
from storyreason.errors import DataError, StoryReasonError, without_password

KINDS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, StoryReasonError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "address", ["postgresql+pg8000://me:planted@db/mlflow", "https://me:planted@host:8080/store?a=b"]
)
def test_no_error_shows_the_password_of_an_address(kind: type[StoryReasonError], address: str) -> None:
    said = str(kind(f"The remote sample ({address}) does not exist."))
    assert "planted" not in said
    assert said == f"The remote sample ({address.replace('planted', '***')}) does not exist."


def test_other_texts_stay_as_they_are() -> None:
    for text in (
        "",
        "http://127.0.0.1:8400/v1",
        "sqlite:////runs/mlflow.db",
        "write to me@host: why?",
        "s3://bucket/x",
    ):
        assert without_password(text) == text
    assert str(DataError("frames/1.jpg is missing")) == "frames/1.jpg is missing"
