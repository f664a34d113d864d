"""Where a cell ran: versions, processor, threads, commit. Recorded, and no part of a cell's identity."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

import fedbench
from fedbench.errors import SpecError, unknown
from fedbench.schema import Environment


@cache
def environment(device: str = "cpu") -> Environment:
    """Return where this process runs: versions, processor, threads, device, commit."""
    names = ("numpy", "torch", "scipy", "pyarrow", "pydantic", "safetensors")
    return Environment(
        python=platform.python_version(),
        packages={name: metadata.version(name) for name in names},
        platform=platform.platform(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=_device(device),
        commit=_commit(),
    )


def versions() -> str:
    """Return the versions of all that computes: other versions may give other bits."""
    env = environment()
    packages = (f"{name} {version}" for name, version in sorted(env.packages.items()))
    return ", ".join([f"fedbench {fedbench.__version__}", f"Python {env.python}", *packages])


def check_device(device: str) -> None:
    """Check that this machine can compute on a device.

    Raises
    ------
    SpecError
        The device is unknown or not here.
    """
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in here:
        raise unknown("device", device, here)
    if not here[device]:
        raise SpecError(f"device: torch {torch.__version__} finds no {device} here; leave --device out to use the CPU.")


def _device(device: str) -> str:
    if device.startswith("cuda"):
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return device


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _commit() -> str | None:
    """Return the commit of the source tree, with a plus where it has changes, or None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + "+" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
