"""An update of Prefect, MLflow or DVC that moves a name which this project depends on fails here."""

from dataclasses import replace

import pytest

from storyreason.compat import Borrowed, fault
from tasks import compat


@pytest.mark.parametrize("one", compat.BORROWED, ids=lambda one: f"{one.package} {one.name}")
def test_a_borrowed_name_is_as_it_was_checked(one: Borrowed) -> None:
    assert fault(one) is None
    assert fault(replace(one, version="0")) is None
