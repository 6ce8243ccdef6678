"""What torch would allocate: models without weights, and a count of the memory of their passes."""

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


def without_memory() -> AbstractContextManager[Any]:
    """Within it, new tensors have shapes and dtypes, and no content: everything runs at once and allocates nothing."""
    return FakeTensorMode()


def renew(net: torch.nn.Module) -> None:
    """Replace the weights of a model on the device `meta`, which computes nothing in lower precision, within
    `without_memory`: by new ones, in place."""
    new: dict[int, Any] = {}
    for module in net.modules():
        for held in (module._parameters, module._buffers):
            for name, old in held.items():
                if old is not None and id(old) not in new:
                    made = torch.empty(old.shape, dtype=old.dtype)
                    of_weight = isinstance(old, torch.nn.Parameter)
                    new[id(old)] = torch.nn.Parameter(made, requires_grad=old.requires_grad) if of_weight else made
                if old is not None:
                    held[name] = new[id(old)]


def drop_out_as_on_gpus(net: torch.nn.Module) -> None:
    """There dropout keeps a byte a number, on a CPU a number of the input's dtype."""
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.forward = partial(_dropped, module.p)  # type: ignore[method-assign]


def _dropped(p: float, inputs: torch.Tensor) -> torch.Tensor:
    return torch.native_dropout(inputs, p, train=True)[0]


class Allocated(TorchDispatchMode):
    """Counts the bytes that live at a time within it, but not those of the tensors that are given."""

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.now = 0
        self._known: dict[int, Any] = {}
        for tensor in before:
            self._known[tensor.untyped_storage()._cdata] = tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.now += size
        self.peak = max(self.peak, self.now)
        self._known[key] = weakref.ref(storage, lambda _: self._freed(key, size))

    def _freed(self, key: int, size: int) -> None:
        self.now -= size
        del self._known[key]
