"""The private names of other libraries that this one uses, overrides or replaces: all of them, and none elsewhere.

`BORROWED` names the version that each was last checked against. `fault` says what to look at when a library has moved; a
test calls it for every entry, so that an update of a library fails there and not in the middle of a training.

    models     private attributes of models, configurations and processors
    trainer    transformers' Trainer with public names for its private methods
    memory     torch's tensors without content, and a count of what is allocated
    liger      Liger's rotary embedding, and its kernels replaced by what they allocate
    sharding   replaced functions of FSDP2 in accelerate, torch and transformers
"""

import inspect
import logging
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# PEFT imports it, and on a CPU it advises to install a package that fetches kernels from the Hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Borrowed:
    """A private name of a dependency."""

    package: str
    version: str
    owner: str
    """The module, or `module:Class`, that has the name."""
    name: str
    parameters: str | None
    """For a function, the names of its parameters, separated by blanks; None for an attribute."""
    check: str
    """What to look at when the library has changed it."""


def fault(one: Borrowed) -> str | None:
    """What is wrong with an entry, or None: the version is the one it was checked against, or the name is as it was."""
    try:
        installed = version(one.package).partition("+")[0]
    except PackageNotFoundError:
        return None  # not installed, so not used
    if installed == one.version:
        return None
    was = f"{one.package} is {installed}, and {one.owner} was last checked in {one.version}"
    try:
        owner = owner_of(one)
    except (ImportError, AttributeError) as error:
        return f"{was}: it is gone ({error}). {one.check}"
    if one.parameters is None:
        if hasattr(owner, one.name) or re.search(rf"\b{one.name}\b", inspect.getsource(owner)):
            return None
        return f"{was}: it has no {one.name}. {one.check}"
    found = parameters(getattr(owner, one.name, None))
    if found == one.parameters:
        return None
    return f"{was}: {one.name} takes ({found}), not ({one.parameters}). {one.check}"


def owner_of(one: Borrowed) -> Any:
    """The module or class that has the name. Raises ImportError or AttributeError when it is gone."""
    module, _, name = one.owner.partition(":")
    found = import_module(module)
    return getattr(found, name) if name else found


def parameters(function: Any) -> str | None:
    """The names of a function's parameters, separated by blanks."""
    return None if function is None else " ".join(inspect.signature(function).parameters)


RESUME = "Compare it with compat/trainer.py, then run tests/storyreason/training/test_run.py and test_together.py."
SHARD = "Read how it shards and reduces (compat/sharding.py says why), then run tests/storyreason/training/test_sharding.py."
COUNTED = "Run tests/storyreason/training/test_memory.py, which compares what it counts with a real pass."
ALLOCATED = (
    "Compare what it allocates and keeps with compat/liger.py, then run tests/storyreason/training/test_memory.py."
)
UVICORN = "Compare it with serving/protocol.py, which limits the head of a request, then run tests/storyreason/serving."
TRAINER = "transformers.trainer:Trainer"
HTTPTOOLS = "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol"
FSDP_PARAM = "torch.distributed.fsdp._fully_shard._fsdp_param:FSDPParam"

BORROWED = (
    Borrowed("transformers", "5.19.0", "transformers.models.qwen2_5_vl.processing_qwen2_5_vl:Qwen2_5_VLProcessor",
             "_get_num_multimodal_tokens", "self image_sizes video_sizes kwargs",
             "It counts a picture's tokens from its size; compare with what the processor makes of the picture itself."),
    Borrowed("transformers", "5.19.0", "transformers.models.qwen3_vl.processing_qwen3_vl:Qwen3VLProcessor",
             "_get_num_multimodal_tokens", "self image_sizes video_sizes kwargs",
             "It counts a picture's tokens from its size; compare with what the processor makes of the picture itself."),
    Borrowed("transformers", "5.19.0", "transformers:PreTrainedConfig", "_commit_hash", None,
             "It names the commit that a name on the Hub was loaded from; fingerprints of Hub models depend on it."),
    Borrowed("transformers", "5.19.0", "transformers:PreTrainedModel", "_no_split_modules", None,
             "It names the layers that FSDP shards one by one."),
    Borrowed("transformers", "5.19.0", "transformers:TrainingArguments", "_n_gpu", None,
             "Set to 1 it keeps one process from spreading a model over all GPUs with DataParallel."),
    Borrowed("transformers", "5.19.0", TRAINER, "_save", "self output_dir state_dict", RESUME),
    Borrowed("transformers", "5.19.0", TRAINER, "_save_checkpoint", "self model trial", RESUME),
    Borrowed("transformers", "5.19.0", TRAINER, "_load_from_checkpoint", "self resume_from_checkpoint model", RESUME),
    Borrowed("transformers", "5.19.0", TRAINER, "_save_optimizer_and_scheduler", "self output_dir", RESUME),
    Borrowed("transformers", "5.19.0", TRAINER, "_save_rng_state", "self output_dir", RESUME),
    Borrowed("transformers", "5.19.0", TRAINER, "_prepare_inputs", "self inputs", RESUME),
    Borrowed("transformers", "5.19.0", TRAINER, "save_model", "self output_dir _internal_call", RESUME),
    Borrowed("transformers", "5.19.0", "transformers.trainer", "update_fsdp_plugin_peft", "model accelerator", SHARD),
    Borrowed("accelerate", "1.15.0", "accelerate.state:GradientState", "_set_sync_gradients", "self sync_gradients", RESUME),
    Borrowed("accelerate", "1.15.0", "accelerate.utils.fsdp_utils", "_find_final_norm", "model", SHARD),
    Borrowed("torch", "2.13.0", FSDP_PARAM, "to_accumulated_grad_if_needed", "self", SHARD),
    Borrowed("torch", "2.13.0", FSDP_PARAM, "_unsharded_param", None, SHARD),
    Borrowed("torch", "2.13.0", "torch._subclasses.fake_tensor:FakeTensorMode", "__torch_dispatch__",
             "self func types args kwargs", COUNTED),
    Borrowed("torch", "2.13.0", "torch.utils._python_dispatch:TorchDispatchMode", "__torch_dispatch__",
             "self func types args kwargs", COUNTED),
    Borrowed("torch", "2.13.0", "torch:UntypedStorage", "_cdata", None, COUNTED),
    Borrowed("torch", "2.13.0", "torch.nn:Module", "_parameters", None, COUNTED),
    Borrowed("torch", "2.13.0", "torch.nn:Module", "_buffers", None, COUNTED),
    Borrowed("liger-kernel", "0.8.5", "liger_kernel.transformers.rms_norm", "LigerRMSNormFunction", None, ALLOCATED),
    Borrowed("liger-kernel", "0.8.5", "liger_kernel.transformers.swiglu", "LigerSiLUMulFunction", None, ALLOCATED),
    Borrowed("liger-kernel", "0.8.5", "liger_kernel.transformers.rope", "dispatch",
             "op_name args impl backend kwargs", ALLOCATED),
    Borrowed("transformers", "5.19.0", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "apply_rotary_pos_emb",
             "q k cos sin unsqueeze_dim", "Run tests/storyreason/compat: Liger's takes its place on a GPU (compat/liger.py)."),
    Borrowed("transformers", "5.19.0", "transformers:PreTrainedModel", "_from_config", "config kwargs", COUNTED),
    Borrowed("uvicorn", "0.54.0", HTTPTOOLS, "data_received", "self data", UVICORN),
    Borrowed("uvicorn", "0.54.0", HTTPTOOLS, "on_header", "self name value", UVICORN),
    Borrowed("uvicorn", "0.54.0", HTTPTOOLS, "on_response_complete", "self", UVICORN),
    Borrowed("uvicorn", "0.54.0", HTTPTOOLS, "send_400_response", "self msg", UVICORN),
    Borrowed("vllm", "0.32.0", "vllm.v1.worker.gpu_model_runner:GPUModelRunner", "_bookkeeping_sync", None,
             "Compare it with deploy/vllm-cpu-alias/seeds_on_cpu.py, which replaces it in vLLM's processes on a CPU, and "
             "generate with a seed while other prompts are read."),
)  # fmt: skip
