"""explain of every head and fusion: the weights are the model's own, contributions add up, an absent part has none."""

import numpy as np
import pytest
import torch

import mm

LABELS = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}
IDS = torch.tensor([[1, 5, 6, 0], [1, 7, 8, 9]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.fixture
def inputs(pictures):
    return {"pixel_values": pictures[:2].double(), "input_ids": IDS, "attention_mask": MASK}


def seen(model, inputs, modules, call):
    """The weights that these modules compute in a call of the eager model, without asking for any."""
    found = []
    model.set_attn_implementation("eager")
    hooks = [module.register_forward_hook(lambda *call: found.append(call[2][1].detach())) for module in modules]
    call(**inputs)
    for hook in hooks:
        hook.remove()
    model.set_attn_implementation("sdpa")
    return torch.stack(found).mean((0, 2))  # (n, T, S), the mean over layers and heads


def flat(explained, row):
    return torch.cat([torch.from_numpy(item.weights[0].ravel()) for item in explained[row].items])


@pytest.mark.parametrize("fusion", ["cross_attention", "merged", "co_attention"])
def test_a_class_is_read_where_its_text_reads(tiny_model, inputs, fusion):
    vision = {"use_cls_token": False, "num_register_tokens": 0, "pooler": "mean"}
    model = tiny_model(cls=mm.MMForSequenceClassification, fusion_type=fusion, vision_config=vision, **LABELS)
    explained = model.explain(inputs, "cat", method="attention")
    if fusion == "co_attention":
        modules = [layer.cross_attn for layer in model.model.fusion.text_layers]
    else:
        name = "cross_attn" if fusion == "cross_attention" else "self_attn"
        modules = [getattr(layer, name) for layer in model.model.language_model.layers if hasattr(layer, name)]
    weights = seen(model, inputs, modules, model)
    size = explained[0].items[0].weights[0].size * len(explained[0].items)
    weights = weights[:, size:, :size] if fusion == "merged" else weights
    for row in range(2):
        expected = weights[row][MASK[row].bool()].mean(0)
        torch.testing.assert_close(flat(explained, row).double(), expected, atol=1e-6, rtol=0)
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        (found,) = model.explain(alone, "cat", method="attention")
        torch.testing.assert_close(flat([found], 0), flat(explained, row), atol=1e-6, rtol=0)


def test_a_pair_is_read_where_its_text_reads(retriever, inputs):
    model = retriever(
        pretraining_losses={"itc": 1.0, "itm": 1.0},
        vision_config={"use_cls_token": False, "num_register_tokens": 0, "pooler": "mean"},
    )
    explained = model.explain(inputs, "match", method="attention")
    modules = [layer.cross_attn for layer in model.model.language_model.layers if layer.has_cross]
    weights = seen(model, inputs, modules, model.match)
    expected = weights[0][MASK[0].bool()].mean(0)
    torch.testing.assert_close(flat(explained, 0).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fusion", ["cross_attention", "merged", "co_attention"])
def test_gradients_are_those_of_weights(tiny_model, pictures, fusion):
    """With one query, layer and head: what the number gains when one value that is read grows by a share of itself."""
    text = {"num_hidden_layers": 1, "num_attention_heads": 1, "cross_attention_layers": None}
    model = tiny_model(
        cls=mm.MMForSequenceClassification, fusion_type=fusion, text_config=text,
        **({"fusion_num_layers": 1} if fusion == "co_attention" else {}),
        vision_config={"use_cls_token": False, "num_register_tokens": 0, "pooler": "mean"}, **LABELS,
    )  # fmt: skip
    model.requires_grad_(False)
    inputs = {"pixel_values": pictures[:1].double(), "input_ids": IDS[:1, :1]}
    maps = [flat(model.explain(inputs, label, method="grad"), 0) for label in range(3)]
    label = int(torch.stack(maps).amax(1).argmax())  # all of a picture may speak against one
    layers = model.model.language_model.layers if fusion != "co_attention" else model.model.fusion.text_layers
    attention = layers[0].self_attn if fusion == "merged" else layers[0].cross_attn
    weights = maps[label]
    assert (weights > 1e-6).any()
    for place in (int(weights.argmax()), int(weights.argmin()), 1):
        logits = []
        for share in (1e-4, -1e-4):
            wider = attention.v_proj.register_forward_hook(
                lambda module, given, out, share=share, place=place: (
                    out * (1 + share * (torch.arange(out.shape[1]) == place).double())[:, None]
                )
            )
            logits.append(float(model(**inputs).logits[0, label]))
            wider.remove()
        slope = (logits[0] - logits[1]) / 2e-4
        assert abs(float(weights[place]) - max(slope, 0)) < 1e-6


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_what_a_modality_contributes_to_a_linear_head_is_its_own_part(tiny_model, inputs, fusion):
    model = tiny_model(cls=mm.MMForSequenceClassification, fusion_type=fusion, **LABELS)
    explained = model.explain(inputs, "bird", method="integrated_gradients")
    output = model.model(**inputs)
    dense = model.model.fusion.dense
    for name, vector in output.modality_embeds.items():
        if fusion == "sum":
            part = dense[name](vector)
        else:
            width = vector.shape[1]
            start = list(output.modality_embeds).index(name) * width
            part = vector @ dense.weight[:, start : start + width].T
        expected = (part @ model.classifier.weight[2]).detach()
        for row in range(2):
            np.testing.assert_allclose(explained[row].contributions[name][0], float(expected[row]), atol=1e-5)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("merged", "co_attention", "concat", "sum", "decision")]


@pytest.mark.parametrize("fusion", ["cross_attention", "gated", *SLOW])
def test_contributions_add_up_and_an_absent_part_has_none(tiny_model, inputs, videos, fusion):
    model = tiny_model(
        cls=mm.MMForSequenceClassification, fusion_type=fusion, modalities=["image", "video"], max_frames=4, **LABELS
    )
    films = videos[:2].double()
    there = torch.ones(films.shape[: films.ndim - 3], dtype=torch.bool)
    there[1] = False
    given = {**inputs, "pixel_values_videos": films, "video_attention_mask": there}
    method = "attention" if fusion in ("cross_attention", "merged", "co_attention") else "integrated_gradients"
    explained = model.explain(given, 0, method=method)
    nothing = torch.zeros(1, 1, dtype=torch.long)
    bos = nothing + model.config.text_config.bos_token_id
    with torch.no_grad():
        base = float(model(input_ids=bos, attention_mask=nothing).logits[0, 0])
        whole = model(**given).logits[:, 0]
        without_text = model(**{k: v for k, v in given.items() if k not in ("input_ids", "attention_mask")}).logits
    for row, one in enumerate(explained):
        assert set(one.contributions) == {"image", "video", "text"}
        total = sum(float(value[0]) for value in one.contributions.values())
        assert abs(total - (float(whole[row]) - base)) < 1e-5
    assert abs(explained[1].contributions["video"][0]) < 1e-6
    if method == "attention":
        kinds = [item.kind for item in explained[0].items]
        assert "image" in kinds and "video" in kinds and "video" not in [item.kind for item in explained[1].items]
    # of two modalities each has the mean of what it adds first and what it adds last
    two = explained[1].contributions
    last = float(whole[1] - without_text[1, 0])
    with torch.no_grad():
        first = float(model(input_ids=IDS[1:], attention_mask=MASK[1:]).logits[0, 0]) - base
    assert abs(float(two["text"][0]) - (first + last) / 2) < 1e-5


@pytest.mark.parametrize("given", [None, torch.tensor([1, 0, 0])], ids=["own media", "shared media"])
def test_an_answer_is_followed_through_the_question_to_the_picture(tiny_model, pictures, given):
    """As in BLIP's VQA: the decoder reads the states of a question that has read the picture."""
    model = tiny_model(
        text_encoder_config="tiny", vision_config={"use_cls_token": False, "num_register_tokens": 0, "pooler": "mean"}
    )
    questions = torch.tensor([[1, 7, 8, 9], [1, 4, 0, 0], [1, 6, 5, 0]])
    real = (questions != 0).long()
    inputs = {"pixel_values": pictures[: 3 if given is None else 2].double(), "context_input_ids": questions}
    inputs |= {"context_attention_mask": real, **({} if given is None else {"media_index": given})}
    ids = torch.tensor([[1, 5, 6]]).expand(3, -1)
    explained = model.explain(inputs, ids)
    crossing = [
        [layer.cross_attn for layer in stack.layers if layer.has_cross]
        for stack in (model.model.text_encoder, model.model.language_model)
    ]
    call = {**inputs, "input_ids": ids[:, :-1]}
    inner, outer = (seen(model, call, modules, model) for modules in crossing)
    if given is not None:  # the rows of a picture are folded into one
        inner = inner.new_zeros(0)
    for row in range(3):
        assert explained[row].shares.keys() == {"image"} and np.allclose(explained[row].shares["image"], 1, atol=1e-5)
        weights = np.concatenate([item.weights.reshape(2, -1) for item in explained[row].items], 1)
        if given is None:
            expected = outer[row] @ inner[row]
            np.testing.assert_allclose(weights, expected, atol=1e-6)
        media = row if given is None else int(given[row])
        alone = {"pixel_values": inputs["pixel_values"][media : media + 1]}
        alone |= {"context_input_ids": questions[row : row + 1, : int(real[row].sum())]}
        (found,) = model.explain(alone, ids[:1])
        np.testing.assert_allclose(
            np.concatenate([item.weights.reshape(2, -1) for item in found.items], 1), weights, atol=1e-6
        )


@pytest.mark.parametrize("method", ["rollout", "grad", pytest.param("occlusion", marks=pytest.mark.slow)])
def test_other_methods_reach_the_picture_through_the_question(tiny_model, pictures, method):
    model = tiny_model(text_encoder_config="tiny")
    questions = torch.tensor([[1, 7, 8, 9], [1, 6, 5, 3]])
    inputs = {"pixel_values": pictures[:1].double(), "context_input_ids": questions}
    found = model.explain(inputs, torch.tensor([[1, 5, 6], [1, 8, 3]]), method=method)
    assert [[item.kind for item in one.items] for one in found] == [["image"] * len(found[0].items)] * 2
    assert all((one.items[0].weights >= 0).all() and one.items[0].weights.max() > 1e-9 for one in found)
    one = {"pixel_values": pictures[:1].double(), "context_input_ids": questions[1:]}
    (alone,) = model.explain(one, torch.tensor([[1, 8, 3]]), method=method)
    np.testing.assert_allclose(alone.items[0].weights, found[1].items[0].weights, atol=1e-6)
    if method == "occlusion":
        assert set(found[0].shares) == {"image", "text"}


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_only_the_frame_that_can_change_a_class_has_weight(tiny_model, videos, method):
    model = tiny_model(
        cls=mm.MMForSequenceClassification, fusion_type="merged", modalities=["video"], max_frames=4, **LABELS
    )
    films = torch.zeros_like(videos[:1].double())
    frame = 1
    films[..., frame, :, :, :] = videos[:1, ..., frame, :, :, :].double()
    there = torch.ones(films.shape[: films.ndim - 3], dtype=torch.bool)
    there[..., -1] = False
    given = {"pixel_values_videos": films, "video_attention_mask": there, "input_ids": IDS[:1]}
    maps = [model.explain(given, label, method=method)[0].items[0] for label in range(3)]
    assert all(item.kind == "video" and item.weights.ndim == 4 for item in maps)
    weights = np.stack([item.weights[0] for item in maps])  # (labels, frames, rows, columns)
    assert weights.shape[1] == films.shape[-4] and weights[:, frame].max() > 1e-6
    assert not np.delete(weights, frame, 1).any() or np.delete(weights, frame, 1).max() < 1e-9
