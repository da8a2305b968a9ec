"""Which model made a vector: a hash of its weights, its configuration, and how media are made into tensors."""

import hashlib
import json
import weakref
from typing import Any

import torch

# What says where a configuration comes from, or how it is computed, and not what.
_ASIDE = {
    "transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "attn_implementation",
    "_attn_implementation", "_attn_implementation_internal", "auto_map", "processor_class", "_processor_class",
}  # fmt: skip
# model -> (its tensors, as they were) and their hash
_KNOWN: "weakref.WeakKeyDictionary[Any, tuple[list[tuple], str]]" = weakref.WeakKeyDictionary()


def hash_of_model(model: Any, processor: Any = None) -> str:
    """A hash of all weights, of the configuration, and of how pictures and sounds are made into tensors.

    processor: None: that in the model's folder. The weights are read again only after a change of theirs.
    """
    settings = model._processor_for_items(processor).to_dict()
    parts = [hash_of_weights(model), str(model.dtype), _without(model.config.to_dict()), _without(settings)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def hash_of_weights(model: Any) -> str:
    tensors = model.state_dict(keep_vars=True)
    held = _KNOWN.get(model)
    if held is not None and _are_same(held[0], tensors):
        return held[1]
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    if not any(value.is_inference() for value in tensors.values()):  # those do not count their changes
        seen = [(name, weakref.ref(value), value.data_ptr(), value._version) for name, value in tensors.items()]
        _KNOWN[model] = seen, digest.hexdigest()
    return digest.hexdigest()


def _are_same(seen: list[tuple], tensors: dict[str, torch.Tensor]) -> bool:
    """Whether these are the very tensors, unchanged."""
    return len(seen) == len(tensors) and all(
        ref() is tensors.get(name) and (where, version) == (tensors[name].data_ptr(), tensors[name]._version)
        for name, ref, where, version in seen
    )


def _without(held: Any) -> Any:
    if isinstance(held, dict):
        return {str(name): _without(value) for name, value in held.items() if name not in _ASIDE}
    return [_without(value) for value in held] if isinstance(held, (list, tuple)) else held
