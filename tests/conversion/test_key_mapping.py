"""Tables of names: strict there, bit-equal back, and every fault in one error."""

import pytest
import torch

from mm.weights.key_table import KeyTable, change
from mm.weights.reshapes import STACK, TRANSPOSE, lead, own_storage, skip_rows, split, summands

TABLE = KeyTable(
    modules={
        "h.{n}.norm": "layers.{n}.norm",
        "h.{n}.fused": change("layers.{n}.q", "layers.{n}.k", by=split(2)),
        "h.{n}.conv": change("layers.{n}.v", "layers.{n}.w", by=split(2, transposed=True)),
        "h.{n}.turned": change("layers.{n}.o", by=TRANSPOSE),
    },
    tensors={
        "cls": change("token", by=lead(-2)),
        "places": change("table.weight", by=lead(1)),
        "rows.weight": change("short.weight", by=skip_rows(2)),
        "frame.{n}": change("frames.weight", by=STACK),
    },
    tied={"head.weight": "rows.weight"},
    dropped={"buffer": "made anew"},
    kept={"old.{leaf}": "nothing reads it"},
    new={"fresh.{rest}": "the source has none"},
)


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


@pytest.fixture
def source() -> dict[str, torch.Tensor]:
    layers = {}
    for n in range(2):
        layers |= {f"h.{n}.norm.weight": numbers(4), f"h.{n}.norm.bias": numbers(4)}
        layers |= {f"h.{n}.fused.weight": numbers(8, 4), f"h.{n}.fused.bias": numbers(8)}
        layers |= {f"h.{n}.conv.weight": numbers(4, 6), f"h.{n}.conv.bias": numbers(6)}
        layers |= {f"h.{n}.turned.weight": numbers(4, 3), f"h.{n}.turned.bias": numbers(3)}
    frames = {f"frame.{n}": numbers(1, 1, 4) for n in range(11)}
    return {**layers, **frames, "cls": numbers(4), "places": numbers(1, 5, 4), "rows.weight": numbers(7, 4)}


@pytest.fixture
def wanted() -> dict[str, torch.Size]:
    shapes: dict[str, tuple[int, ...]] = {"token": (1, 1, 4), "table.weight": (5, 4), "short.weight": (5, 4)}
    shapes["frames.weight"] = (11, 4)
    for n in range(2):
        for name, rows, width in (("q", 4, 4), ("k", 4, 4), ("v", 3, 4), ("w", 3, 4), ("o", 3, 4)):
            shapes |= {f"layers.{n}.{name}.weight": (rows, width), f"layers.{n}.{name}.bias": (rows,)}
        shapes |= {f"layers.{n}.norm.weight": (4,), f"layers.{n}.norm.bias": (4,)}
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def test_every_tensor_goes_there_and_comes_back_bit_by_bit(source, wanted):
    done = TABLE.convert(source, wanted)
    assert done.tensors.keys() == wanted.keys() and not done.dropped
    back = TABLE.restore(done.tensors, done.unread)
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in source.items())


def test_reshapes_are_what_they_say(source, wanted):
    new = TABLE.convert(source, wanted).tensors
    assert torch.equal(new["layers.1.k.weight"], source["h.1.fused.weight"][4:])
    assert torch.equal(new["layers.1.w.weight"], source["h.1.conv.weight"].T[3:])
    assert torch.equal(new["layers.0.o.weight"], source["h.0.turned.weight"].T)
    assert torch.equal(new["short.weight"], source["rows.weight"][2:])
    assert torch.equal(new["frames.weight"][10], source["frame.10"][0, 0])


def test_rows_that_nothing_reads_come_back_as_zeros_where_they_were_not_kept(source, wanted):
    back = TABLE.restore(TABLE.convert(source, wanted).tensors)
    assert not back["rows.weight"][:2].any()
    assert torch.equal(back["rows.weight"][2:], source["rows.weight"][2:])


def test_a_copy_of_a_tied_tensor_is_left_out_and_must_be_a_copy(source, wanted):
    source["head.weight"] = source["rows.weight"].clone()
    assert TABLE.convert(source, wanted).dropped == {"head.weight": "a copy of rows.weight"}
    source["head.weight"][0, 0] += 1
    with pytest.raises(ValueError, match="head.weight should equal rows.weight"):
        TABLE.convert(source, wanted)


def test_a_tied_tensor_under_the_copys_name_alone_is_found(source, wanted):
    source["head.weight"] = source.pop("rows.weight")
    assert torch.equal(TABLE.convert(source, wanted).tensors["short.weight"], source["head.weight"][2:])


def test_what_is_dropped_kept_or_new_is_told_with_its_reason(source, wanted):
    more = {**source, "buffer": numbers(1), "old.weight": numbers(2)}
    done = TABLE.convert(more, {**wanted, "fresh.a.weight": torch.Size([1])})
    assert done.dropped == {"buffer": "made anew", "old.weight": "nothing reads it"}
    assert done.new == {"fresh.a.weight": "the source has none"}
    assert TABLE.restore({**done.tensors, "fresh.a.weight": numbers(1)}, done.unread).keys() == {*source, "old.weight"}


def test_all_faults_are_in_one_error(source, wanted):
    del source["h.0.norm.bias"]
    source["stray"] = numbers(1)
    source["h.1.turned.weight"] = numbers(4, 9)
    source["h.5.norm.weight"] = numbers(4)
    source["h.0.fused.weight"] = numbers(7, 4)
    with pytest.raises(ValueError) as raised:
        TABLE.convert(source, wanted)
    for fault in (
        "nothing for layers.0.norm.bias",
        "no place for stray",
        "h.1.turned.weight makes layers.1.o.weight (9, 4), but the model has (3, 4)",
        "no place for h.5.norm.weight (it would be layers.5.norm.weight)",
        "h.0.fused.weight cannot be split in 2: 7 outputs are not 2 equal parts",
    ):
        assert fault in str(raised.value)


def test_going_back_a_tensor_without_a_place_is_told(source, wanted):
    tensors = TABLE.convert(source, wanted).tensors
    del tensors["layers.0.k.weight"]
    with pytest.raises(ValueError) as raised:
        TABLE.restore({**tensors, "adapter.weight": numbers(1)})
    assert "no place for adapter.weight" in str(raised.value)
    assert "layers.0.q.weight without the others" in str(raised.value)


def test_a_table_moves_under_prefixes(source, wanted):
    moved = TABLE.under("model.a.", "b.")
    done = moved.convert({f"model.a.{k}": v for k, v in source.items()}, {f"b.{k}": v for k, v in wanted.items()})
    assert moved.restore(done.tensors, done.unread).keys() == {f"model.a.{name}" for name in source}


def test_a_shape_is_changed_without_a_copy_where_the_numbers_stay():
    tensor = numbers(1, 5, 4)
    there, _ = lead(1).forward([tensor])
    assert there[0].data_ptr() == tensor.data_ptr()


def test_a_sum_that_goes_back_is_itself_again_bit_by_bit():
    """Trained in half precision, where vector - place + place is often another number."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        one, two = (torch.randn(999, generator=generator).to(dtype) * 30 for _ in range(2))
        kept = summands(one + two, one, two)
        assert torch.equal(kept[0], one) and torch.equal(kept[1], two)
        trained = torch.randn(999, generator=generator).to(dtype)
        assert not torch.equal(trained - two + two, trained)
        first, second = summands(trained, one, two)
        assert torch.equal(first + second, trained)


def test_parts_of_a_tensor_share_its_memory_and_no_storage():
    """So that Transformers saves them as they lie, and not as copies."""
    whole = torch.arange(24.0).view(6, 4)
    parts = [own_storage(part) for part in whole.chunk(3)]
    assert all(torch.equal(part, rows) for part, rows in zip(parts, whole.chunk(3), strict=True))
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 3
    assert parts[2].data_ptr() == whole[4].data_ptr() and parts[2].untyped_storage().nbytes() == parts[2].nbytes
    assert torch.equal(own_storage(whole.t()[:2]), whole.t()[:2])
