"""token2json: fields in tags as JSON, as Donut's processor makes them of text that is whole."""

import random

import pytest
from transformers import DonutProcessor

from mm import token2json

CATEGORIES = {"<yes/>": 1, "<no/>": 2}


def written(value):
    """A tree as Donut is trained to write it."""
    if isinstance(value, dict):
        return "".join(f"<s_{key}>{written(inner)}</s_{key}>" for key, inner in value.items())
    if isinstance(value, list):
        return "<sep/>".join(map(written, value))
    return f"<{value}/>" if value in ("yes", "no") else value


def tree(draw: random.Random, depth: int, keys: list[str]) -> dict:
    """Every key is of its own, as Donut's processor wants them."""
    fields = {}
    for _ in range(draw.randint(1, 3)):
        keys.append(f"k{len(keys)}")
        kind = draw.choice(["words", "words", "list", "fields"]) if depth else "words"
        key = keys[-1]
        if kind == "words":
            fields[key] = draw.choice(["tea", "a red cat", "yes", "3.50", ""])
        elif kind == "list":
            fields[key] = [draw.choice(["tea", "no", "x y"]) for _ in range(draw.randint(2, 3))]
        else:
            fields[key] = tree(draw, depth - 1, keys)
    return fields


def test_it_is_the_inverse_of_writing_and_equals_donut_s():
    draw, donut = random.Random(0), DonutProcessor.__new__(DonutProcessor)
    for _ in range(200):
        value = tree(draw, 2, [])
        text = written(value)
        assert token2json(text, CATEGORIES) == value == donut.token2json(text, added_vocab=CATEGORIES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no tags", {"text_sequence": "no tags"}),
        ("", {"text_sequence": ""}),
        ("<s_a>1</s_a><sep/><s_a>2</s_a>", [{"a": "1"}, {"a": "2"}]),
        ("<s_m><s_n>tea</s_n><sep/><s_n>cake</s_n></s_m>", {"m": [{"n": "tea"}, {"n": "cake"}]}),
        ("<s_a>1</s_a><s_a>2</s_a>", {"a": ["1", "2"]}),  # Donut's keeps the last
        ("<s_m><s_n>tea<s_p>3</s_p></s_m>", {"m": {"n": {"p": "3", "text_sequence": "tea"}}}),
        ("<s_m><s_n>cut o", {"m": {"n": "cut o"}}),
        ("total <s_a>1</s_a></s_b>", {"a": "1", "text_sequence": "total"}),
        ("a <s_text_sequence>b</s_text_sequence> c", {"text_sequence": ["b", "a  c"]}),
        ("<s_a><yes/></s_a>", {"a": "yes"}),
        ("<s_a><other/></s_a>", {"a": "<other/>"}),
        ("<s_>1</s_>", {"": "1"}),
    ],
)
def test_text_that_is_not_whole_loses_nothing(text, value):
    assert token2json(text, CATEGORIES) == value


def test_deep_nesting_and_other_types():
    value = token2json("<s_a>" * 5000)
    for _ in range(5000):
        value = value["a"]
    assert value == ""
    with pytest.raises(TypeError, match="must be a string.*list"):
        token2json([1])
