import pytest
import torch

from storyreason.training import precision


def test_a_named_precision_is_kept() -> None:
    assert precision.resolve("float32") == "float32"
    assert precision.resolve("bfloat16") == "bfloat16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("able", "resolved"), [({"avx512_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")])
def test_auto_takes_bfloat16_where_the_processor_has_products_for_it(
    able: dict[str, bool], resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert precision.resolve("auto") == resolved
