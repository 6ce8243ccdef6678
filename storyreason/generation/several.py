"""An evaluation's engines: one, or as many as `serving.data_parallel` says, each a process on devices of its own."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from storyreason.generation import vllm
from storyreason.generation.config import EngineConfig
from storyreason.generation.vllm import VllmServer


@contextmanager
def engines(
    model: Path | str, config: EngineConfig, log: Path, revision: str | None = None
) -> Iterator[list[VllmServer]]:
    """The engines of a model folder, or of a name on the Hub in a `revision`, started at the same time.

    Their output is in `log`, that of the second in `vllm-2.log` beside it.

    Processes rather than vLLM's own data parallelism: its engines decide by their load which one answers, and stop together
    when one of them dies. Raises EngineError.
    """
    made = [
        VllmServer(model, one, log if number == 1 else log.with_stem(f"{log.stem}-{number}"), revision=revision)
        for number, one in enumerate(shares(config, vllm.visible_gpus() if config.data_parallel > 1 else ()), 1)
    ]
    try:
        with ThreadPoolExecutor(len(made)) as pool:
            for starting in [pool.submit(one.start) for one in made]:
                starting.result()
        yield made
    finally:
        for one in made:
            one.stop()


def shares(config: EngineConfig, gpus: Sequence[str]) -> list[EngineConfig]:
    """The settings of each engine: `tensor_parallel` of the devices each, in order; of `gpus`, if `devices` names none.

    >>> [one.devices for one in shares(EngineConfig(data_parallel=2, tensor_parallel=2), gpus="4567")]
    ['4,5', '6,7']
    """
    if config.data_parallel == 1:
        return [config]
    named = config.devices.split(",") if config.devices else gpus
    width = config.tensor_parallel
    parts = [",".join(named[start * width : (start + 1) * width]) or None for start in range(config.data_parallel)]
    return [config.model_copy(update={"data_parallel": 1, "devices": part}) for part in parts]
