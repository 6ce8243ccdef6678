"""Lets accelerate run FSDP2 on CPU processes: tests put this folder on the PYTHONPATH of a training.

accelerate takes FSDP for GPUs only: on a CPU it forgets the plugin and runs plain data parallelism without a word. torch's
own FSDP2 works on gloo. So after accelerate has decided, the decision is put right: type, plugin and device.
"""

import os

if os.environ.get("ACCELERATE_USE_FSDP") == "true" and "LOCAL_RANK" in os.environ:
    import torch
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    _init = AcceleratorState.__init__

    def _with_fsdp(self: AcceleratorState, *args: object, fsdp_plugin: object = None, **kwargs: object) -> None:
        _init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.device.type == "cpu":
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            self.device = torch.device("cpu")
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = _with_fsdp
