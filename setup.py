"""What pyproject.toml cannot say: the packages that only a checkout's editable install adds, and the files a build copies."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel


class Build(build_py):
    """Copies the presets and accelerate files of `deploy/` to where `storyreason.resources` finds them in a package."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # modules of an earlier build that are gone now
        super().run()
        for folder in ("presets", "accelerate"):
            shutil.copytree(Path("deploy", folder), Path(self.build_lib, "storyreason", "deploy", folder))


class Checkout(editable_wheel):
    """An editable install is a checkout's: it has the upper floors too, which the wheel does not hold."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.distribution.packages += find_packages(include=["flows*", "tasks*"])
        self.distribution.entry_points["mlflow.artifact_repository"] = ["storyreason = tasks.showing:VersionFiles"]


setup(cmdclass={"build_py": Build, "editable_wheel": Checkout})
