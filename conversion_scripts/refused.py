"""Families that are known and not converted, by model_type: the reason, in words."""

_INSIDE = "MM has pictures inside the text (fusion_order='in_text'), but"
REFUSED = {
    "qwen2_vl": "Qwen2-VL turns positions in three directions (time, height, width) and merges patches of pictures of "
    "any size in its own tower; MM's text has one direction",
    "qwen2_5_vl": "Qwen2.5-VL turns positions in three directions (time, height, width) and has a tower with windows; "
    "MM's text has one direction",
    "florence2": "Florence-2's decoder reads the states of pictures and those of its text encoder, and one table "
    "of embeddings serves three uses; MM's decoder reads what the text encoder made of both",
    "beit3": "BEiT-3 has norms and MLPs of its own for each modality inside one layer, which MM's layer does not, and "
    "Transformers has no class to compare with",
    "instructblip": f"{_INSIDE} InstructBLIP's Q-Former reads the question together with its queries, with MLPs of "
    "its own for it: what stands for a picture would be another for each question, and MM computes it once",
}
