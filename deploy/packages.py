"""What the locks hold: which pins changed, under which licences the packages are, and which have known vulnerabilities.

python deploy/packages.py changed origin/main
python deploy/packages.py licences runs/sbom.json
python deploy/packages.py audit deploy/requirements-cpu.txt .venv-tools/bin/pip-audit
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LOCKS = sorted(FOLDER.glob("requirements-*.in"))
FOUND = {
    "antlr4-python3-runtime": ("BSD License", "the field License of its metadata"),
    "axe-playwright-python": ("MIT, with axe-core under MPL-2.0", "its LICENSE and the head of its axe.min.js"),
    "compressed-tensors": ("Apache-2.0", "its LICENSE"),
    "dvc-http": ("Apache-2.0", "its LICENSE"),
    "gto": ("Apache-2.0", "its LICENSE"),
    "huey": ("MIT", "its LICENSE"),
    "liger-kernel": ("BSD-2-Clause", "its LICENSE"),
    "oss-harmony": ("Apache-2.0", "its LICENSE"),
    "protobuf": ("BSD-3-Clause", "its LICENSE"),
    "pycocoevalcap": (
        "none named",
        "neither metadata nor files name one; it holds METEOR, SPICE and Stanford's parser as jars",
    ),
    "pycocotools": ("BSD-2-Clause", "the field License of its metadata, which says FreeBSD"),
    "pygit2": ("GPL-2.0-only with a linking exception", "its COPYING"),
    "setuptools": ("MIT", "its LICENSE"),
    "skops": ("MIT", "its LICENSE"),
    "supervisor": ("BSD-derived (Repoze)", "its LICENSES.txt"),
    "tiktoken": ("MIT", "its LICENSE"),
    "torchvision": ("BSD-3-Clause", "its LICENSE"),
    "transformers": ("Apache-2.0", "its LICENSE"),
    "vllm": ("MIT", "it is deploy/vllm-cpu-alias, a part of this project"),
}
"""Licences of packages whose metadata name none that a program reads, and where each was read."""


def pins(text: str) -> dict[str, str]:
    """The versions in a list of requirements, by package (in the spelling that indexes use)."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", text, re.MULTILINE)
    return {re.sub("[-_.]+", "-", name).lower(): version for name, version in found}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """A line for each package that came, went or has another version."""
    names = sorted(before.keys() | after.keys())
    return [
        f"{name} {before.get(name, 'new')} -> {after.get(name, 'removed')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def changed(commit: str) -> int:
    """Print what changed in each lock since a commit."""
    for lock in LOCKS:
        place = f"{commit}:./{lock.name}"
        shown = subprocess.run(["git", "show", place], cwd=FOLDER, capture_output=True, text=True)
        found = changes(pins(shown.stdout), pins(lock.read_text())) if shown.returncode == 0 else ["is new"]
        print(f"{lock.name}: {'; '.join(found) or 'no pin has changed'}")  # noqa: T201
    return 0


def licences_of(component: Mapping[str, Any]) -> list[str]:
    """What a component of an SBOM says of its licences; empty if it says nothing."""
    found = []
    for one in component.get("licenses", ()):
        named = one.get("license", {})
        found.append(one.get("expression") or named.get("id") or named.get("name") or "")
    return sorted({name.removeprefix("License :: ").removeprefix("OSI Approved :: ") for name in found if name})


def licences(sbom: str) -> int:
    """Print each licence with the packages under it, then where it was read for those whose metadata name none."""
    under: dict[str, list[str]] = {}
    read = []
    for component in json.loads(Path(sbom).read_text())["components"]:
        name, said = component["name"], " | ".join(licences_of(component))
        package = f"{name} {component.get('version', '')}".strip()
        key = re.sub("[-_.]+", "-", name).lower()
        if said in ("", "OSI Approved") and key in FOUND:
            said, place = FOUND[key]
            read.append(f"{package}: {said} ({place})")
        under.setdefault(said or "no licence named in its metadata", []).append(package)
    for said, packages in sorted(under.items(), key=lambda one: -len(one[1])):
        print(f"{said}: {', '.join(sorted(packages, key=str.lower))}")  # noqa: T201
    print("\nRead elsewhere than in metadata:", *sorted(read, key=str.lower), sep="\n")  # noqa: T201
    return 0


def audit(lock: str, pip_audit: str) -> int:
    """Print the known vulnerabilities of a lock's packages, or that their service cannot be asked. Fails on neither."""
    command = [pip_audit, "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "-r", lock]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        print("pip-audit: its service did not answer within ten minutes, so nothing was checked")  # noqa: T201
        return 0
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        print(f"pip-audit: its service cannot be reached, so nothing was checked ({said})")  # noqa: T201
        return 0
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if len(skipped) == len(packages):
        print("pip-audit: its service knows none of the packages, so nothing was checked")  # noqa: T201
        return 0
    for one in packages:
        for known in one.get("vulns", ()):
            fixed = ", ".join(known["fix_versions"]) or "no version"
            print(f"{one['name']} {one['version']}: {known['id']}, fixed in {fixed}")  # noqa: T201
    found = sum(len(one.get("vulns", ())) for one in packages)
    print(f"pip-audit: {found} known vulnerabilities; {len(skipped)} of {len(packages)} packages unknown to it")  # noqa: T201
    return 0


if __name__ == "__main__":
    verbs: dict[str, Callable[..., int]] = {"changed": changed, "licences": licences, "audit": audit}
    sys.exit(verbs[sys.argv[1]](*sys.argv[2:]))
