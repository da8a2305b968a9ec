"""Where a model runs and in which type, by the names that commands take."""

import os

import torch

DTYPES = ("float32", "bfloat16", "float16")


def device_of(name: str | None) -> torch.device:
    """The device of a name such as "cpu" or "cuda:1"; None: a GPU if there is one, of torchrun's processes one each.

    Raises: ValueError for a name that is not known, and for a GPU that is not there.
    """
    if name is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        number = int(os.environ.get("LOCAL_RANK", 0))
        return torch.device("cuda", number % torch.cuda.device_count())
    try:
        place = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name} is not known; accepted: cpu, cuda, cuda:1, mps") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs")
    return place


def dtype_settings(name: str | None) -> dict[str, torch.dtype]:
    """What from_pretrained is told of one of DTYPES; None: nothing, the weights keep theirs. Raises ValueError."""
    if name is None:
        return {}
    if name not in DTYPES:
        raise ValueError(f"--dtype {name} is not known; accepted: {', '.join(DTYPES)}")
    return {"dtype": getattr(torch, name)}
