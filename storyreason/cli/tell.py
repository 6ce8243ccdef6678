"""The verb `storyreason tell`."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from storyreason.cli.options import Decoding
from storyreason.errors import DataError, EngineError, ModelError

if TYPE_CHECKING:
    from storyreason.generation.engine import Engine

RESOLVERS: dict[str, Callable[[str], str]] = {}
"""Functions that turn a name into a model folder, by the prefix of the name (`models:/`). The flows add MLflow's."""
LARGEST_PICTURE = 64 * 2**20
"""Bytes."""


def tell(
    images: Annotated[
        list[str], typer.Argument(help="The frames in order: PNG, JPEG, WebP or GIF files, or their http(s) addresses.")
    ],
    endpoint: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible address. Default: the gateway of this checkout.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model folder, or a registered version (models:/storyteller@champion): run in this process "
            "without a server. Or the name of a model that the endpoint serves."
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(help="A LoRA adapter for the model folder; without --model, for the base that the adapter names."),
    ] = None,
    decoding: Annotated[
        Decoding, typer.Option(help="grounded: the answer cannot break a rule; free: it can.")
    ] = "grounded",
    request: Annotated[str | None, typer.Option(help="The request. Default: a plain request for a story.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum length of the answer, in tokens.")] = None,
    out: Annotated[Path | None, typer.Option(help="A page to write: frames, boxes, tables, tagged text.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="STORYREASON_API_KEY", help="API key of the endpoint.")] = None,
) -> None:
    """Tell a grounded story of some images: print analysis and story; with --out, write a page of it."""
    from storyreason import page, runs
    from storyreason.generation import GenerationConfig, answering

    pictures = [_read(image) for image in images]
    names = [Path(urlsplit(image).path if _is_address(image) else image).stem for image in images]
    if out is not None and out.suffix != ".html":
        raise DataError(f"--out {out} is not a page: name a file that ends in .html.")
    engine, prompt = _engine(endpoint, model, adapter, api_key)
    if request is not None:
        prompt["request"] = request
    wanted = GenerationConfig(**prompt, decoding=decoding, max_tokens=max_tokens)
    told = answering.answer_by(engine, names[0], pictures, wanted)
    typer.echo(told.answer)
    if told.cut:
        typer.echo("The answer was cut off: raise --max-tokens.", err=True)
    elif told.ended:
        typer.echo("The answer reached the limit on tokens and was ended early: raise --max-tokens.", err=True)
    if told.mended:
        typer.echo(f"{told.mended} boxes had their corners in the wrong order; they were corrected.", err=True)
    if out is not None:
        runs.write_text(out, page.render([page.view(names[0], pictures, told.answer)], ", ".join(names)))
        typer.echo(f"page: {out.absolute()}", err=True)


def _engine(
    endpoint: str | None, model: str | None, adapter: Path | None, api_key: str | None
) -> "tuple[Engine, dict[str, Any]]":
    """The engine, a model in this process or an endpoint, and the prompt settings its model was trained with."""
    from storyreason import config
    from storyreason.generation import openai
    from storyreason.generation.inprocess import InProcess
    from storyreason.model import prompt as prompt_of
    from storyreason.serving import client

    for beginning, folder_of in RESOLVERS.items():
        if model is not None and model.startswith(beginning):
            model = folder_of(model)
    if adapter is not None:
        base, revision = (model, None) if model else _base_of(adapter)
        loaded = InProcess(base, adapter, say=partial(typer.echo, err=True), revision=revision)
        return loaded, prompt_of(adapter)
    if model is not None and Path(model).is_dir():
        typer.echo(f"loading {model} ...", err=True)
        return InProcess(model), prompt_of(model)
    endpoint = endpoint or client.url(config.load_here("sample").serving)
    names = openai.models(endpoint, api_key)
    if not names or (model is not None and model not in names):
        raise EngineError(
            f"{endpoint} serves {', '.join(names) or 'no model'}"
            + (f", not {model}: name one of these, or a model folder." if model else ": name another --endpoint.")
        )
    return openai.Endpoint(endpoint, model or names[0], api_key), openai.prompt(endpoint, api_key)


def _base_of(adapter: Path) -> tuple[str, str | None]:
    """The base that an adapter names, and its revision on the Hub if it names one."""
    try:
        found = json.loads((adapter / "adapter_config.json").read_text())
        return str(found["base_model_name_or_path"]), found.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(
            f"{adapter} is not an adapter that names its base: name the folder of the base with --model."
        ) from None


def _is_address(image: str) -> bool:
    return image.startswith(("http://", "https://"))


def _read(image: str) -> bytes:
    from storyreason import pictures

    try:
        encoded = _fetched(image) if _is_address(image) else Path(image).read_bytes()
        return pictures.canonical(encoded)
    except (OSError, pictures.PictureError) as error:
        raise DataError(f"{image} cannot be read as a picture ({error}): name image files, in order.") from None


def _fetched(address: str) -> bytes:
    import httpx

    parts, size = [], 0
    try:
        with httpx.stream("GET", address, timeout=60, follow_redirects=True) as response:
            response.raise_for_status()
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > LARGEST_PICTURE:
                    raise DataError(
                        f"{address} has more than {LARGEST_PICTURE >> 20} MiB, more than a picture may have."
                    )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DataError(
            f"{address} cannot be fetched ({error}): name addresses or files of images, in order."
        ) from None
    return b"".join(parts)
