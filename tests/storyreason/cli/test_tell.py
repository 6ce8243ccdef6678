"""What `storyreason tell` takes for a picture and for a model, without a model."""

import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from storyreason.cli import app
from storyreason.cli import tell as cli
from storyreason.errors import DataError, ModelError
from storyreason.generation import answering, grounded, inprocess
from storyreason.generation.config import GenerationConfig
from storyreason.model import PROMPT


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the files in `tmp_path`."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_picture_is_read_from_a_file_or_an_address(site: str, tmp_path: Path, frames: tuple[bytes, ...]) -> None:
    (tmp_path / "1.jpg").write_bytes(frames[0])
    assert cli._read(str(tmp_path / "1.jpg")) == cli._read(f"{site}/1.jpg") == frames[0]


def test_what_is_no_picture_is_one_sentence(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(DataError, match=r"page\.html cannot be read as a picture"):
        cli._read(f"{site}/page.html")
    with pytest.raises(DataError, match=r"2\.jpg cannot be fetched \(.*404"):
        cli._read(f"{site}/2.jpg")
    with pytest.raises(DataError, match="cannot be fetched"):
        cli._read("http://127.0.0.1:9/1.jpg")
    monkeypatch.setattr(cli, "LARGEST_PICTURE", 3)
    with pytest.raises(DataError, match="more than a picture may have"):
        cli._read(f"{site}/page.html")


def test_an_adapter_without_a_base_says_what_to_do(tmp_path: Path, frames: tuple[bytes, ...]) -> None:
    (tmp_path / "1.jpg").write_bytes(frames[0])
    arguments = ["tell", str(tmp_path / "1.jpg"), "--adapter", str(tmp_path)]
    with pytest.raises(
        ModelError, match="is not an adapter that names its base: name the folder of the base with --model"
    ):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_model_is_asked_as_its_folder_or_its_gateway_says(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: tuple[bytes, ...]
) -> None:
    asked: list[tuple[str, bool]] = []

    def answer_by(engine: object, name: str, images: object, wanted: GenerationConfig) -> answering.Prediction:
        asked.append((wanted.request, wanted.images_first))
        return answering.Prediction(name, "", False, 0, 0)

    monkeypatch.setattr(answering, "answer_by", answer_by)
    monkeypatch.setattr(inprocess, "InProcess", lambda *_, **__: None)
    (tmp_path / "1.jpg").write_bytes(frames[0])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / PROMPT).write_text('{"images_first": false}')
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "models").write_text('{"data": [{"id": "storyteller"}]}')

    def tell(*more: str) -> tuple[str, bool]:
        CliRunner().invoke(app, ["tell", str(tmp_path / "1.jpg"), *more], catch_exceptions=False)
        return asked[-1]

    plain = GenerationConfig().request
    assert tell("--model", str(tmp_path / "model")) == (plain, False)
    assert tell("--model", str(tmp_path)) == (plain, True)
    assert tell("--adapter", str(tmp_path / "model"), "--model", str(tmp_path)) == (plain, False)
    assert tell("--endpoint", site) == (plain, True)  # an endpoint other than our gateway
    (tmp_path / "healthz").write_text('{"prompt": {"images_first": false, "request": "Tell it."}}')
    assert tell("--endpoint", site) == ("Tell it.", False)
    assert tell("--endpoint", site, "--request", "Be brief.") == ("Be brief.", False)


@pytest.mark.parametrize(
    ("cut", "ended", "said"),
    [
        (False, False, ""),
        (False, True, "The answer reached the limit on tokens and was ended early: raise --max-tokens.\n"),
        (True, True, "The answer was cut off: raise --max-tokens.\n"),
    ],
)
def test_an_answer_that_is_shorter_than_the_model_had_it_says_so(
    site: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    frames: tuple[bytes, ...],
    cut: bool,
    ended: bool,
    said: str,
) -> None:
    told = grounded.Grounded("a story", "a story", 0, ended, cut, 1, 2)
    monkeypatch.setattr(grounded, "tell", lambda *_, **__: told)
    (tmp_path / "1.jpg").write_bytes(frames[0])
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "models").write_text('{"data": [{"id": "storyteller"}]}')
    done = CliRunner().invoke(app, ["tell", str(tmp_path / "1.jpg"), "--endpoint", site], catch_exceptions=False)
    assert (done.stdout, done.stderr) == ("a story\n", said)


def test_the_base_that_an_adapter_names_is_loaded_in_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: tuple[bytes, ...]
) -> None:
    seen: list[tuple[object, object]] = []

    def load(name: object, *_: object, revision: object, **__: object) -> None:
        seen.append((name, revision))
        raise ModelError("none")

    monkeypatch.setattr(inprocess, "InProcess", load)
    (tmp_path / "1.jpg").write_bytes(frames[0])
    own = {"base_model_name_or_path": "owner/model", "revision": "abc"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(own))
    for more in ([], ["--model", "mine"]):
        with pytest.raises(ModelError):
            CliRunner().invoke(
                app, ["tell", str(tmp_path / "1.jpg"), "--adapter", str(tmp_path), *more], catch_exceptions=False
            )
    assert seen == [("owner/model", "abc"), ("mine", None)]


def test_a_name_is_made_a_folder_by_who_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: tuple[bytes, ...]
) -> None:
    (tmp_path / "1.jpg").write_bytes(frames[0])
    monkeypatch.setitem(cli.RESOLVERS, "models:/", lambda name: str(tmp_path / name.removeprefix("models:/")))
    (tmp_path / "storyteller@champion").mkdir()
    with pytest.raises(ModelError, match="storyteller@champion"):  # found, and no model
        CliRunner().invoke(
            app, ["tell", str(tmp_path / "1.jpg"), "--model", "models:/storyteller@champion"], catch_exceptions=False
        )
