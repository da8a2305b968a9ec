"""Every fusion in every class that takes it, over every subset of the inputs: rows are right whatever the batch holds,
each trainable parameter learns and no frozen one, what is saved is loaded bit by bit, eager = SDPA.

A batch here is hard on purpose: three contexts (two pictures, two videos and two clips; one of each; nothing at all),
four rows on them in no order, texts of unequal length with padding on the left. Each row is compared with a call of
its own: its text without padding, its media without absent items, no index.
"""

# Fixtures build models whose types pyright cannot follow.

from typing import Any

import pytest
import torch

from comparing import close, same_weights
from mm import MMForConditionalGeneration, MMForSequenceClassification, MMModel

FP32 = 1e-4  # a thousand roundings; eager in fp32 needs up to a hundred, by the order of sums that a CPU takes
IDS = torch.tensor([[0, 1, 5, 6, 2], [1, 7, 8, 9, 3], [0, 0, 1, 4, 2], [0, 1, 3, 3, 7]])
MASK = (IDS != 0).long()
READS = [1, 0, 2, 1]  # row -> context
FRAMES = torch.tensor([[[1, 1, 1], [1, 1, 0]], [[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]).bool()
PRESENT = torch.tensor([[1, 1], [0, 1], [0, 0]]).bool()
MEDIA = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
MASKS = {"image": "pixel_attention_mask", "video": "video_attention_mask", "audio": "input_features_mask"}

# What makes each fusion: fields of MMConfig, those of the text stack that reads the media among them.
BOTH_WAYS = {"is_causal": False}
JOINS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cross_attention": ({}, {}),
    "cross_attention, own gated layers": ({}, {"own": True}),
    "co_attention": ({"fusion_type": "co_attention"}, BOTH_WAYS),
    "merged, prefix": ({"fusion_type": "merged"}, {}),
    "merged, causal": ({"fusion_type": "merged", "fusion_mask": "causal", "fusion_embedding_norm": True}, {}),
    "merged, bidirectional": ({"fusion_type": "merged", "fusion_mask": "bidirectional"}, BOTH_WAYS),
    "merged, text first": (
        {"fusion_type": "merged", "fusion_mask": "bidirectional", "fusion_order": "text_first"}, BOTH_WAYS
    ),
    "concat": ({"fusion_type": "concat", "fusion_size": 20}, BOTH_WAYS),
    "sum": ({"fusion_type": "sum"}, BOTH_WAYS),
    "gated": ({"fusion_type": "gated"}, BOTH_WAYS),
    "decision": ({"fusion_type": "decision"}, BOTH_WAYS),
    "decision, fixed": (
        {"fusion_type": "decision", "fusion_weights": {"text": 0.4, "image": 0.3, "video": 0.2, "audio": 0.1}},
        BOTH_WAYS,
    ),
}  # fmt: skip
CAUSAL = ["cross_attention", "cross_attention, own gated layers", "merged, prefix", "merged, causal"]
ENCODED = [
    name for name, (_, text) in JOINS.items() if "decision" not in name and (text is BOTH_WAYS or "cross" in name)
]
CLASSIFY, WRITE = MMForSequenceClassification, MMForConditionalGeneration

# (class, fusion, which text encoder): the text encoder reads both ways, the decoder of a writer never does.
CASES = [
    *((CLASSIFY, name, None) for name in JOINS),
    *((WRITE, name, None) for name in CAUSAL),
    *((WRITE, name, kind) for name in ENCODED for kind in ("own", "shared") if (name, kind) != (CAUSAL[1], "shared")),
    *((CLASSIFY, name, "own") for name in ENCODED),
]
NAMES = [f"{cls.__name__[5:]}-{name}-{encoder or 'decoder'}" for cls, name, encoder in CASES]
every_case = pytest.mark.parametrize(("cls", "name", "encoder"), CASES, ids=NAMES)


@pytest.fixture
def build(tiny_model):
    """A model with every modality for one of CASES, in fp64 and eval mode, no gate closed."""

    def build(cls, name, encoder, **more):
        fields, reader = dict(JOINS[name][0]), dict(JOINS[name][1])
        shape = "own" if reader.pop("own", False) else "inside"
        decoder = {"pooler": "cls_tanh" if cls is CLASSIFY else "last"}
        if encoder is None:
            decoder |= reader
        elif encoder == "own":
            own = {"cross_attention_layers": [0], "cross_attention_placement": "own", "num_hidden_layers": 2}
            fields["text_encoder_config"] = {**ENCODER, **(own if shape == "own" else {}), "pooler": "mean"}
            shape = "inside"
        else:
            fields["share_text_encoder"] = True
        if encoder is not None and "fusion_size" in fields:
            decoder["cross_attention_hidden_size"] = fields["fusion_size"]
            if encoder == "shared":
                decoder.pop("cross_attention_hidden_size")
                fields.pop("fusion_size")
        model = tiny_model(
            "vit", shape, cls=cls, modalities=list(MEDIA), audio_config="ast", max_images=2, num_labels=3,
            modality_embeddings=True, text_config=decoder, **fields, **more,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(5)
        for key, value in model.named_parameters():
            if key.endswith("gate_weight"):
                value.data = 0.2 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        return model

    return build


ENCODER = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50,
    "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.15,
}  # fmt: skip


@pytest.fixture
def media(pictures, videos, clips):
    return {"image": pictures, "video": videos, "audio": clips("ast")}


def masks(kind: str) -> torch.Tensor:
    return FRAMES if kind == "video" else PRESENT


def batch_of(media, encoder, kinds=tuple(MEDIA)) -> dict[str, torch.Tensor]:
    """All rows, with the given kinds of media."""
    given = {MEDIA[kind]: media[kind] for kind in kinds} | {MASKS[kind]: masks(kind) for kind in kinds}
    text = {"input_ids": IDS, "attention_mask": MASK}
    if encoder is None:
        return {**text, **given, **({"context_index": torch.tensor(READS)} if kinds else {})}
    index = {"media_index": torch.tensor(READS)} if kinds else {}
    return {**text, "context_input_ids": IDS.flip(0), "context_attention_mask": MASK.flip(0), **given, **index}


def alone(media, encoder, row: int, kinds=tuple(MEDIA)) -> dict[str, torch.Tensor]:
    """One row of `batch_of` by itself."""
    given = {"input_ids": IDS[row][MASK[row].bool()][None]}
    if encoder is not None:
        given["context_input_ids"] = IDS.flip(0)[row][MASK.flip(0)[row].bool()][None]
    context = READS[row]
    for kind in kinds:
        mask = masks(kind)[context]
        here = mask if kind != "video" else mask.any(-1)
        if here.any():
            given[MEDIA[kind]] = media[kind][context][here][None]
            if kind == "video":
                given[MASKS[kind]] = mask[here][None]
    return given


def with_slots(given: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """A lonely second picture keeps its slot, as its number is part of it."""
    if READS[row] == 1 and "pixel_values" in given:
        pictures = given["pixel_values"]
        given["pixel_values"] = torch.cat([torch.zeros_like(pictures), pictures], dim=1)
        given["pixel_attention_mask"] = torch.tensor([[False, True]])
    return given


@every_case
def test_each_row_is_what_it_is_alone(build, media, cls, name, encoder):
    """And so a row without any media equals the call without media."""
    model = build(cls, name, encoder)
    logits = model(**batch_of(media, encoder)).logits
    for row in range(4):
        expected = model(**with_slots(alone(media, encoder, row), row)).logits[0]
        got = logits[row] if logits.ndim == 2 else logits[row][MASK[row].bool()]
        close(got, expected)


@every_case
def test_every_subset_of_the_media_runs_and_each_kind_counts(build, media, cls, name, encoder):
    model = build(cls, name, encoder)
    subsets = [(), ("image",), ("video",), ("audio",), ("image", "audio"), tuple(MEDIA)]
    found = [model(**batch_of(media, encoder, kinds)).logits for kinds in subsets]
    for number, logits in enumerate(found):
        assert torch.isfinite(logits).all()
        for other in found[:number]:
            assert (logits - other)[1].abs().max() > 1e-6  # row 1 reads the context that has everything
    if cls is CLASSIFY and encoder is None:
        contexts = model(**{key: value for key, value in batch_of(media, None).items() if key in (
            *MEDIA.values(), *MASKS.values())}).logits  # fmt: skip
        assert contexts.shape == (3, 3) and torch.isfinite(contexts).all()


@every_case
def test_what_learns_gets_a_gradient_and_what_is_frozen_none(build, media, cls, name, encoder):
    model = build(cls, name, encoder).train()
    labels = torch.tensor([0, 2, 1, 1]) if cls is CLASSIFY else IDS.masked_fill(MASK == 0, -100)
    model(**batch_of(media, encoder), labels=labels).loss.backward()
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, key
        elif not key.endswith("k_proj.bias"):  # a softmax does not see what is added to all of its scores
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(
    ("cls", "name", "encoder"),
    [
        pytest.param(*case, id=name, marks=[] if case[2] is None else pytest.mark.slow)
        for case, name in zip(CASES, NAMES, strict=True)
    ],
)
def test_what_is_saved_is_loaded_bit_by_bit(build, media, cls, name, encoder, tmp_path):
    model = build(cls, name, encoder)
    model.save_pretrained(tmp_path)
    loaded, info = cls.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = batch_of(media, encoder)
    same_weights(loaded, model)
    close(loaded.eval()(**batch).logits, model(**batch).logits)
    base = MMModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    close(base(**batch).last_hidden_state, model.model(**batch).last_hidden_state)


@every_case
def test_eager_is_sdpa(build, media, cls, name, encoder):
    batch = batch_of(media, encoder, ("image", "video"))  # Transformers' eager audio tower takes its softmax in fp32
    eager, sdpa = (build(cls, name, encoder, attention=kind)(**batch).logits for kind in ("eager", "sdpa"))
    real = slice(None) if eager.ndim == 2 else MASK.bool()
    close(eager[real], sdpa[real])


SLOW = (CLASSIFY, "cross_attention, own gated layers")  # in Triton's interpreter
FAST = [case if not {*case[:2]} & {*SLOW} else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("cls", "name", "encoder"), FAST, ids=NAMES)
def test_mm_triton_is_eager(build, media, cls, name, encoder):
    """In fp32, where the kernels run through Triton's interpreter, against eager in fp64 on the same weights: off by
    rounding alone."""
    model = build(cls, name, encoder, dtype=torch.float32)
    media, kinds = {kind: values.float() for kind, values in media.items()}, ("image", "video")
    model.set_attn_implementation("mm_triton")
    mine = model(**batch_of(media, encoder, kinds)).logits.double()
    model.double().set_attn_implementation("eager")
    truth = model(**batch_of({kind: values.double() for kind, values in media.items()}, encoder, kinds)).logits
    real = slice(None) if truth.ndim == 2 else MASK.bool()
    close(mine[real], truth[real], FP32)


@pytest.mark.parametrize("name", JOINS)
def test_flex_attention_infers_what_eager_does(build, media, name, no_compiler):
    batch = batch_of({kind: values.float() for kind, values in media.items()}, None, ("image", "video"))
    wide = {"hidden_size": 32}  # flex attention wants head widths of 16
    model = build(CLASSIFY, name, None, dtype=torch.float32, vision_config=wide)
    found = {}
    for kind in ("eager", "flex_attention"):
        model.set_attn_implementation({"vision_config": kind, "text_config": kind})
        with torch.no_grad():
            found[kind] = model(**batch).logits
    close(found["flex_attention"], found["eager"], FP32)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", [name for name in JOINS if "decision" not in name])
def test_checkpointing_changes_no_gradient(build, media, name, reentrant):
    batch, found = {**batch_of(media, None), "labels": torch.tensor([0, 2, 1, 1])}, []
    for checkpointed in (False, True):
        model = build(CLASSIFY, name, None).train()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model(**batch).loss.backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        close(one, other)
