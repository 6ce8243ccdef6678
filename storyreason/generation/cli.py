"""The verb `storyreason tell`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from storyreason.errors import DataError, EngineError
from storyreason.generation.config import Decoding


def tell(
    images: Annotated[list[Path], typer.Argument(help="The frames in order: PNG, JPEG, WebP or GIF files.")],
    endpoint: Annotated[
        str, typer.Option(help="An OpenAI-compatible address; the default is the gateway of this machine.")
    ] = "http://127.0.0.1:8400",
    model: Annotated[
        str | None,
        typer.Option(help="A model folder, served for this story alone; or a name that the endpoint serves."),
    ] = None,
    decoding: Annotated[
        Decoding, typer.Option(help="grounded: the answer cannot break a rule; free: it can.")
    ] = "grounded",
    request: Annotated[str | None, typer.Option(help="What to ask for; a plain request if not given.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The answer's greatest length in tokens.")] = None,
    out: Annotated[Path | None, typer.Option(help="A page to write: frames, boxes, tables, tagged text.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="STORYREASON_API_KEY", help="Key of the endpoint.")] = None,
) -> None:
    """Tell a grounded story of some images: prints analysis and story, writes a page of it on request."""
    from storyreason import page, runs
    from storyreason.generation import GenerationConfig, predictions

    pictures = [_read(path) for path in images]
    wanted = GenerationConfig(decoding=decoding, max_tokens=max_tokens)
    if request is not None:
        wanted = wanted.model_copy(update={"request": request})
    if out is not None and out.suffix != ".html":
        raise DataError(f"--out {out} is no page: name a file that ends in .html.")
    with _served(endpoint, model, api_key) as (url, name):
        told = predictions.answer_to(url, name, images[0].stem, pictures, wanted, api_key)
    typer.echo(told.answer)
    if told.cut:
        typer.echo("The answer was cut: raise --max-tokens.", err=True)
    if told.mended:
        typer.echo(f"{told.mended} boxes had their corners in the wrong order and were mended.", err=True)
    if out is not None:
        title = ", ".join(path.stem for path in images)
        runs.write_text(out, page.render([page.view(images[0].stem, pictures, told.answer)], title))
        typer.echo(f"page: {out.absolute()}", err=True)


@contextmanager
def _served(endpoint: str, model: str | None, api_key: str | None) -> Iterator[tuple[str, str]]:
    """An address that answers, and the model's name there. A model folder gets an engine of its own for the time."""
    from storyreason.generation import openai

    if model is None or not Path(model).is_dir():
        names = openai.models(endpoint, api_key)
        if not names or (model is not None and model not in names):
            raise EngineError(
                f"{endpoint} serves {', '.join(names) or 'no model'}"
                + (f", not {model}: name one of those, or a model folder." if model else ": name another --endpoint.")
            )
        yield endpoint, model or names[0]
        return
    from storyreason.generation.vllm import VllmServer
    from storyreason.serving.config import ServingConfig

    typer.echo(f"starting vLLM with {model} ...", err=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        VllmServer(model, ServingConfig(), Path(folder) / "vllm.log") as server,
    ):
        yield server.url, server.name


def _read(path: Path) -> bytes:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()
        return path.read_bytes()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no picture that can be read ({error}): name image files, in order.") from None
