"""Two frames with a reference and a flawed prediction; a browser, and a gateway that shows them."""

import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from storyreason.serving.config import ServingConfig
from storyreason.serving.gateway import application

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


Open = Callable[..., Any]
"""Opens an address in the browser; gives Playwright's page."""


class Told(NamedTuple):
    images: tuple[bytes, ...]
    reference: str
    prediction: str


REFERENCE = """<think>
## Image 1

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Mara | A woman in red | Calm | Waiting | Protagonist | 5,5,20,35 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|---|---|---|---|---|---|
| obj1 | A blue ball | Toy | Lying there | Brings them together | 35,20,50,35 |

### Setting
| Setting Element | Description | Mood | Time | Narrative Function |
|---|---|---|---|---|
| Location | A beach | Quiet | Noon | Opens |

## Image 2

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Mara | A woman in red | Glad | Playing | Protagonist | 30,5,45,35 |

### Setting
| Setting Element | Description | Mood | Time | Narrative Function |
|---|---|---|---|---|
| Location | A beach | Glad | Noon | Closes |

## Narrative Structure

| Narrative Phase | Description | Key Events | Images |
|---|---|---|---|
| Introduction | She waits | A ball | 1 |
| Development | She looks | - | 1 |
| Conflict | It rolls | - | 1-2 |
| Turning Point | She runs | - | 2 |
| Conclusion | She plays | - | 2 |
</think>
<gdi image1>
<gdo char1>Mara</gdo> <gda char1>waited</gda> by <gdo obj1>the ball</gdo>.
</gdi>

<gdi image2>
<gdo char1>She</gdo> <gda char1>played</gda>.
</gdi>"""


def _frame(x: int) -> bytes:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (60, 40), (220, 200, 150))
    ImageDraw.Draw(image).rectangle((x, 5, x + 14, 34), fill=(200, 40, 40))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def told() -> Told:
    """The prediction calls the ball obj2, misplaces Mara by a pixel and mentions a dog that is in no table."""
    text = REFERENCE.replace("obj1", "obj2").replace("5,5,20,35", "6,5,21,35")
    text = text.replace("<gda char1>played</gda>.", "<gda char1>played</gda> and she saw <gdo obj9>a dog</gdo>.")
    return Told((_frame(5), _frame(30)), REFERENCE, text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium. Tests that need it are skipped if it is missing.

    Closed before the next module: while it is open, its event loop runs in this thread, and `asyncio.run` refuses.
    """
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install Debian's `chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def gateway(config: ServingConfig, engine: Any = None) -> Iterator[tuple[str, Any]]:
    """The address of a gateway in this process, and its server. Engines belong to others and are not stopped."""
    import uvicorn

    app, _ = application(config)
    app.state.engines._engine = engine
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", server
    finally:
        app.state.engines._engine = None
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORYREASON_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture
def files(told: Told, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path, image in zip(paths, told.images, strict=True):
        path.write_bytes(image)
    return paths


@pytest.fixture
def open_(browser: Any) -> Iterator[Open]:
    """Opens an address and fails the test if the browser reports anything but an HTTP error."""
    complaints: list[str] = []

    def complain(message: Any) -> None:
        if "Failed to load resource" not in message.text:  # a refusal, which the page shows
            complaints.append(message.text)

    def open_(url: str, **context: Any) -> Any:
        shown = browser.new_page(**context)
        shown.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        shown.on("console", complain)
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto(url)
        return shown

    yield open_
    for context in browser.contexts:
        context.close()
    assert complaints == []


def add(shown: Any, files: list[Path]) -> None:
    shown.set_input_files("#files", files)
    shown.wait_for_selector(f".pictures li:nth-child({len(files)})")
