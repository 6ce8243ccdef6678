"""Let vLLM sample with a seed on a CPU while it reads other requests' prompts in parts.

A prompt that is read in several steps samples a token in each, which is thrown away; vLLM then winds the request's
generator back by an offset, which a CPU's generators do not have: the engine ends with "CPU Generator does not use
offset", and with it every request in flight. Here such a generator begins anew with its seed, which is the same thing:
nothing that counts was drawn from it before its prompt was read.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`).
"""

from typing import Any


def register() -> None:
    """Wrap the step after sampling, once."""
    import torch

    if torch.version.cuda is not None:
        return
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # the CPU's runner inherits from it

    if getattr(GPUModelRunner._bookkeeping_sync, "begins_anew", False):
        return
    bookkeeping = GPUModelRunner._bookkeeping_sync

    def bookkeeping_on_cpu(self: Any, *arguments: Any, **named: Any) -> Any:
        generators = self.input_batch.generators
        thrown_away = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0]
        held = {int(index): generators.pop(int(index)) for index in thrown_away if int(index) in generators}
        for generator in held.values():
            generator.manual_seed(generator.initial_seed())
        try:
            return bookkeeping(self, *arguments, **named)
        finally:
            generators.update(held)

    bookkeeping_on_cpu.begins_anew = True  # type: ignore[attr-defined]
    GPUModelRunner._bookkeeping_sync = bookkeeping_on_cpu
