"""Which positions a text may have: the rules between the settings of MMTextConfig that describe them."""

from typing import Any

from .settings import nearest

# Transformers' kinds of RoPE, without the one whose angles depend on the longest row of a batch.
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "proportional")
_BATCH_ROPE_TYPES = ("longrope",)
SINUSOID_OFFSET = 2  # fairseq numbers the tokens of a text from here: the id of its padding, 1, plus 1


def position_faults(config: Any) -> list[str]:
    kind, faults = config.position_embedding_type, []
    if config.interpolate_positions and kind != "absolute":
        faults.append(
            f"interpolate_positions=True is for learned positions, but position_embedding_type={kind!r} has "
            "none; set position_embedding_type='absolute', or rope_parameters={'rope_type': 'linear', ...}"
        )
    if kind == "sinusoidal" and (config.hidden_size % 2 or config.hidden_size < 4):
        faults.append(f"sinusoidal positions need an even hidden_size of at least 4; hidden_size={config.hidden_size}")
    if kind == "relative":
        buckets, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
        if buckets < 4:
            faults.append(f"relative_attention_num_buckets={buckets} must be at least 4")
        elif farthest <= buckets // 4:
            faults.append(
                f"relative_attention_max_distance={farthest} must be above {buckets // 4}, a fourth of "
                f"relative_attention_num_buckets={buckets}"
            )
    if kind == "rope":
        return faults + rope_faults(config)
    if config.rope_parameters is not None:
        faults.append(
            f"rope_parameters are only for position_embedding_type='rope', but it is {kind!r}; set "
            "position_embedding_type='rope' or leave rope_parameters out"
        )
    return faults


def rope_faults(config: Any) -> list[str]:
    parameters: dict[str, Any] = config.rope_parameters or {}
    kind = parameters.get("rope_type", "default")
    if kind in _BATCH_ROPE_TYPES:
        return [
            f"rope_parameters: rope_type={kind!r} has angles that depend on the longest row of a batch, so a "
            f"row would depend on others; accepted: {', '.join(ROPE_TYPES)}"
        ]
    if kind not in ROPE_TYPES:
        accepted = f"{', '.join(ROPE_TYPES)}{nearest(str(kind), ROPE_TYPES)}"
        return [f"rope_parameters: rope_type={kind!r} is not a kind of RoPE; accepted: {accepted}"]
    faults = []
    for name in ("rope_theta", "factor", "partial_rotary_factor", "original_max_position_embeddings"):
        value = parameters.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            faults.append(f"rope_parameters: {name}={value!r} must be a positive number")
    if faults:
        return faults
    rotated = int((config.head_dim or 0) * parameters.get("partial_rotary_factor", 1.0))
    if config.head_dim and (rotated % 2 or not 0 < rotated <= config.head_dim):
        faults.append(
            f"RoPE rotates pairs of dimensions, but {rotated} of head_dim={config.head_dim} are rotated; change "
            "head_dim, or partial_rotary_factor in rope_parameters"
        )
        return faults
    try:
        config.check_rope()
    except (KeyError, ValueError, TypeError) as error:
        faults.append(f"rope_parameters: {error.args[0] if error.args else error}")
    return faults
