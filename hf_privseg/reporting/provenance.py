"""Where figures come from: the code, the versions, the machine and the command line, to be kept beside them."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("hf-privseg", "torch", "transformers", "accelerate", "numpy")


def provenance() -> dict[str, Any]:
    """Of this process, as JSON values.

    date (UTC, ISO 8601), command, commit (None outside a git checkout; "-dirty" after it means uncommitted changes),
    versions ({package: version} of those installed), python, machine (processor, cores and system), accelerator (None
    without one) and threads (None without torch).

    `Records` keeps it beside the figures; with another date or machine it is still the same experiment.
    """
    accelerator, threads = _torch_facts()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]]),
        "commit": _commit(Path(__file__).parent),
        "versions": _versions(PACKAGES),
        "python": platform.python_version(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "accelerator": accelerator,
        "threads": threads,
    }


def provenance_in_words(run: Mapping[str, Any]) -> str:
    """What `provenance` gave -> one line for people, without the command."""
    parts = [
        run["date"],
        ", ".join(f"{name} {number}" for name, number in run["versions"].items()),
        f"Python {run['python']}",
        run["machine"],
        run["accelerator"],
        run["threads"] and f"threads: {run['threads']}",
        run["commit"] and f"commit {run['commit']}",
    ]
    return "; ".join(part for part in parts if part)


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit(folder: Path) -> str | None:
    """The commit of the checkout that `folder` is a part of, since an installed package may lie in another one."""
    git = ["git", "-C", str(folder)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=True)
        found = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _processor() -> str:
    """The model of the processor, where Linux names it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _torch_facts() -> tuple[str | None, int | None]:
    if find_spec("torch") is None:
        return None, None
    import torch

    accelerator = None
    if torch.cuda.is_available():
        accelerator = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    elif torch.backends.mps.is_available():
        accelerator = "Apple MPS"
    return accelerator, torch.get_num_threads()
