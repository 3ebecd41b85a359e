"""Versions of what a measurement depends on, and NCCL's settings."""

import os
import platform
from importlib import metadata

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "transformers",
    "deepspeed",
    "megatron-core",
)


def version(package: str) -> str | None:
    """Return the installed version of `package`, None when it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def software_versions() -> dict[str, str | None]:
    """Return the versions of Python, `PACKAGES`, CUDA and NCCL."""
    versions = {"python": platform.python_version()}
    versions.update({package: version(package) for package in PACKAGES})
    versions["cuda"], versions["nccl"] = None, None
    try:
        import torch

        versions["torch"] = torch.__version__
        versions["cuda"] = torch.version.cuda
        if torch.cuda.is_available():
            numbers = torch.cuda.nccl.version()
            versions["nccl"] = ".".join(str(number) for number in numbers)
    except Exception:  # a broken install must not break a description
        pass
    return versions


def nccl_variables() -> dict[str, str]:
    """Return the NCCL_* variables that are set, but none that holds a path.

    They decide which transports NCCL may take, and so belong to a number
    measured through it; a path could name a person's home folder.
    """
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("NCCL_") and os.sep not in value
    }
