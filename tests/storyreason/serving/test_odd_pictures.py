"""The pictures that a request may have, and what the engine then sees of them: by vLLM's own code, in this process."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from storyreason import pictures
from storyreason.serving import limits
from storyreason.serving.config import ServingConfig
from storyreason.serving.errors import RefusedError
from storyreason.serving.passthrough import may_have_pictures
from tests.storyreason.odd import PICTURES, Odd, text

CONFIG = ServingConfig()
PLAIN = text(PICTURES["PNG"].encoded)
SERVED = {name: odd for name, odd in PICTURES.items() if odd.served and not odd.refused}
REFUSED = {name: odd for name, odd in PICTURES.items() if odd.refused or not odd.served}


@pytest.fixture(scope="module")
def vllm() -> Callable[[bytes], np.ndarray]:
    """What vLLM makes of an encoded picture, uint8 [height, width, 3]."""
    from vllm.multimodal.media import ImageMediaIO

    return lambda encoded: np.asarray(ImageMediaIO().load_bytes(encoded).media)


def chat(image: str) -> dict[str, Any]:
    url = {"url": f"data:image/png;base64,{image}"}
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}


def responses(image: str) -> dict[str, Any]:
    part = {"type": "input_image", "image_url": f"data:image/jpeg;base64,{image}"}
    return {"input": [{"role": "user", "content": [part]}]}


def messages(image: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/jpeg", "data": image}
    return {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}


def picture_in(body: dict[str, Any]) -> bytes:
    ((holder, name),) = limits._links(body)
    return pictures.from_data_url(holder[name] if name != "data" else f"data:,{holder['data']}")


@pytest.mark.parametrize("odd", SERVED.values(), ids=SERVED)
def test_the_engine_gets_the_pixels_that_training_sees(vllm: Callable[[bytes], np.ndarray], odd: Odd) -> None:
    (picture,) = limits.decoded([text(odd.encoded)], CONFIG)
    assert (vllm(picture) == odd.pixels).all()
    assert picture == pictures.canonical(odd.encoded)


@pytest.mark.parametrize("interface", [chat, responses, messages])
@pytest.mark.parametrize("odd", SERVED.values(), ids=SERVED)
def test_a_request_is_forwarded_as_it_is_unless_its_picture_is_odd(
    odd: Odd, interface: Callable[[str], dict[str, Any]]
) -> None:
    body = json.dumps(interface(text(odd.encoded))).encode()
    forwarded = limits.check(body, CONFIG)
    assert (forwarded is body) is (not odd.why)
    assert picture_in(json.loads(forwarded)) == pictures.canonical(odd.encoded)
    if odd.why:
        kind = pictures.sniff(picture_in(json.loads(forwarded)))
        assert f"image/{kind}" in forwarded.decode()


@pytest.mark.parametrize("odd", REFUSED.values(), ids=REFUSED)
def test_a_picture_that_cannot_be_used_is_refused_by_its_number(odd: Odd) -> None:
    with pytest.raises(RefusedError, match="Image 2 is not a picture in Base64 that can be used") as caught:
        limits.decoded([PLAIN, text(odd.encoded)], CONFIG)
    assert caught.value.status == 400
    if odd.served:
        assert odd.refused.strip() in str(caught.value)


@pytest.mark.parametrize("interface", [chat, responses, messages])
def test_every_interface_refuses_them(interface: Callable[[str], dict[str, Any]]) -> None:
    for odd in REFUSED.values():
        with pytest.raises(RefusedError, match="Image 1 "):
            limits.check(json.dumps(interface(text(odd.encoded))).encode(), CONFIG)


@pytest.mark.parametrize("interface", [chat, responses, messages])
def test_a_small_body_with_a_picture_is_never_read_in_the_event_loop(
    interface: Callable[[str], dict[str, Any]],
) -> None:
    body = json.dumps(interface(PLAIN))
    assert may_have_pictures(body.encode())
    assert may_have_pictures(body.replace("data", "d\\u0061ta").encode())
    assert not may_have_pictures(b'{"messages": [{"role": "user", "content": "Tell me a story."}]}')
