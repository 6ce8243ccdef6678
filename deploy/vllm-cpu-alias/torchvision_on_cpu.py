"""Let PyPI's torchvision, a CUDA build, be imported beside a CPU build of torch.

Its compiled operators cannot be loaded there, but its Python part registers shapes for `torchvision::nms` and
`torchvision::qnms` all the same and fails with "operator torchvision::nms does not exist". Declaring the two schemas
first is enough: transforms and image processors use neither.

Imported by `torchvision_on_cpu.pth` at every start of the interpreter, so it imports nothing heavy: it leaves a finder
that changes how torchvision is loaded, and nothing else. Looking whether torchvision is there still costs no torch.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class TorchvisionLoader(SourceFileLoader):
    """Loads torchvision as ever, after the schemas are there."""

    library: object = None  # torch takes the schemas back when this is collected

    def exec_module(self, module: ModuleType) -> None:
        self.declare(Path(self.path).parent)
        super().exec_module(module)

    @classmethod
    def declare(cls, folder: Path) -> None:
        """Declare the schemas, unless this torch has CUDA or torchvision's own operators can be loaded."""
        import torch

        if torch.version.cuda is not None or cls.library is not None:
            return
        try:
            torch.ops.load_library(folder / "_C.so")
        except OSError:
            cls.library = torch.library.Library("torchvision", "DEF")
            for schema in SCHEMAS:
                cls.library.define(schema)


class TorchvisionFinder:
    """A meta-path finder for one name."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = TorchvisionLoader(name, spec.origin)
        return spec


sys.meta_path.insert(0, TorchvisionFinder)
