"""docs/architecture.md is true: its parts exist, its paths are those that a call runs, and no file is left out."""

# Fixtures build models whose types pyright cannot follow.

import re
from pathlib import Path

import pytest
import torch

from mm import MMForSequenceClassification, MMModel

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PATHS = {
    cells[0].strip("` "): [cell.strip() for cell in cells[2:]]
    for cells in (line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `") and "→" in line)
}
ENCODER = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BOTH_WAYS = {"cross_attention": {}, "merged": {"fusion_mask": "bidirectional"}}
IDS = torch.tensor([[1, 5, 6]])


def ran(model, base, **inputs) -> str:
    """The parts of the base model in the order in which a call enters them."""
    order = []
    for name, part in base.named_children():
        part.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    model(**inputs)
    return " → ".join(dict.fromkeys(order))


def test_the_page_has_a_path_for_every_fusion(tiny_config):
    accepted = tiny_config().__dataclass_fields__["fusion_type"].type.__args__
    assert tuple(PATHS) == accepted


@pytest.mark.parametrize("fusion", PATHS)
def test_a_call_runs_the_parts_in_the_order_of_the_page(tiny_model, pictures, fusion):
    fields = {"fusion_type": fusion, **BOTH_WAYS.get(fusion, {})}
    cls = MMModel if fusion == "none" else MMForSequenceClassification
    model = tiny_model(cls=cls, text_config={"is_causal": False}, **fields)
    media = {"pixel_values": pictures[:1].double()}
    assert ran(model, model.base_model, input_ids=IDS, **media) == PATHS[fusion][0]
    if fusion in ("decision", "none"):
        return
    model = tiny_model(cls=MMModel, text_encoder_config=ENCODER, **fields)
    assert ran(model, model, input_ids=IDS, context_input_ids=IDS, **media) == PATHS[fusion][1]


def test_every_part_of_the_drawing_is_a_part_of_the_model(tiny_model):
    resampler = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "append_latents": False}
    model = tiny_model(
        cls=MMModel, modalities=["image", "video", "audio"], audio_config="ast", max_images=2, max_frames=2,
        max_clips=2, modality_embeddings=True, vision_resampler_config=resampler, audio_resampler_config=resampler,
        text_encoder_config=ENCODER, fusion_type="co_attention",
    )  # fmt: skip
    drawing = PAGE.split("```text\n")[1].split("```")[0]
    drawn = set(re.findall(r"[a-z]+_(?:tower|resampler|projector|slots|embedding|encoder|model)\b", drawing))
    assert drawn - {"share_text_encoder"} | {"fusion"} == {name for name, _ in model.named_children()}


def test_every_file_of_the_model_is_on_the_page():
    there = {path.name for folder in ("modeling_mm", "weights") for path in (ROOT / folder).rglob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", PAGE)) == there
