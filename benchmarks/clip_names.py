"""Transformers' CLIP and SigLIP under the names of open_clip."""

import re

import torch

# Parts of names, Transformers' to open_clip's, in this order; SigLIP's tower is one of timm.
TEXT = {
    "text_model.embeddings.token_embedding": "token_embedding", "text_model.final_layer_norm": "ln_final",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers": "transformer.resblocks", "text_model.head": "text_projection",
}  # fmt: skip
BLOCK = {".self_attn.": ".attn.", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
         "mlp.fc2": "mlp.c_proj"}  # fmt: skip
CLIP = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1", "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post", "vision_model.encoder.layers": "visual.transformer.resblocks",
    "visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection",
}  # fmt: skip
SIGLIP = {
    "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
    "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
    "vision_model.encoder.layers": "visual.trunk.blocks", "vision_model.post_layernorm": "visual.trunk.norm",
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
    "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
    "vision_model.head.mlp": "visual.trunk.attn_pool.mlp",
}  # fmt: skip
TIMM_BLOCK = {".self_attn.out_proj": ".attn.proj", ".self_attn.": ".attn.", "layer_norm": "norm"}
POOL = "vision_model.head.attention.in_proj_"  # (3 * D, ...): query, then keys and values


def translated(theirs: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of Transformers' model for an open_clip model whose state is `wanted`, in its shapes."""
    found, is_siglip, prefix = {}, any("attn_pool" in name for name in wanted), ""
    if any(name.startswith("text.") for name in wanted):
        prefix = "text."
    for name, tensor in theirs.items():
        if name.endswith("position_ids") or ".k_proj." in name or ".v_proj." in name:
            continue
        if name.startswith(POOL):
            kind, size = name.removeprefix(POOL), len(tensor) // 3
            found[f"visual.trunk.attn_pool.q.{kind}"] = tensor[:size]
            found[f"visual.trunk.attn_pool.kv.{kind}"] = tensor[size:]
            continue
        if ".q_proj." in name:
            tensor = torch.cat([theirs[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
        new = renamed(name, is_siglip, prefix)
        if new in wanted and tensor.shape != wanted[new].shape:
            tensor = tensor.T if tensor.T.shape == wanted[new].shape else tensor.view(wanted[new].shape)
        elif new in ("visual.proj", "text_projection"):
            tensor = tensor.T
        found[new] = tensor.contiguous()
    return found | {name: tensor for name, tensor in wanted.items() if name.endswith("attn_mask")}


def renamed(name: str, is_siglip: bool, prefix: str) -> str:
    in_timm = is_siglip and name.startswith("vision_model.")
    if ".q_proj." in name:
        name = re.sub(r"\.q_proj\.", ".qkv." if in_timm else ".in_proj_", name)
    for theirs, ours in {**(TIMM_BLOCK if in_timm else BLOCK), **(SIGLIP if is_siglip else CLIP)}.items():
        name = name.replace(theirs, ours)
    for theirs, ours in TEXT.items():
        name = name.replace(theirs, prefix + ours)
    return name
