"""`mm env`: the versions and the hardware, as a report of a fault needs them."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from ..configuration.mm import MMConfig
from ..modeling_mm.model import MMModel

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
OPTIONAL_PACKAGES = ("triton", "torchvision", "accelerate", "peft")


def environment() -> dict[str, str]:
    """The environment: versions ("absent" where not installed), processors, attention implementation."""
    return {
        "mm": version("mm-transformers"),
        "python": f"{platform.python_version()} ({platform.platform()})",
        **{name: _version_or_absent(name) for name in PACKAGES + OPTIONAL_PACKAGES},
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch",
        "gpu": _gpus(),
        "attention": _default_attention(),
    }


def _version_or_absent(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(names)} (CUDA {torch.version.cuda})"


def _default_attention() -> str:
    """The attention implementation that a model gets when nothing is asked for. No weights are made to find out."""
    with torch.device("meta"):
        return str(MMModel(MMConfig()).config._attn_implementation)
