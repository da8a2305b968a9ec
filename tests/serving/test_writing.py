"""Texts in parts: what is sent is how the text ends, and no part of a stop is sent."""

import pytest
import torch

from mm.serving.writing import AtStop, RowStreamer, first_stop, held_back

TEXT = "a red apple on the old table".split()


def decode(ids):
    return " ".join(TEXT[number] for number in ids).strip()


def streamed(stops):
    sent = []
    streamer = RowStreamer([sent.append], decode, {99}, stops)
    streamer.put(torch.tensor([[0]]))  # the prompt
    for number in range(len(TEXT)):
        streamer.put(torch.tensor([number]))
        if first_stop(decode(range(number + 1)), stops) is not None:
            break
    return "".join(sent)


@pytest.mark.parametrize(
    "stops", [["apple on"], [" on"], ["red apple on the"], ["on the new"], ["e old", "the"], ["table"], ["a red"], []]
)
def test_parts_are_the_beginning_of_the_text_before_a_stop(stops):
    whole = decode(range(len(TEXT)))
    place = first_stop(whole, stops)
    text = whole if place is None else whole[:place].rstrip()
    sent = streamed(stops)
    assert text.startswith(sent) and text[len(sent) :].count(" ") <= 3
    assert sent == sent.rstrip()


def test_what_a_stop_could_begin_with_is_held_back():
    assert held_back("a red app", ["apple on"]) == 6
    assert held_back("a red", ["redder", "d"]) == 2
    assert held_back("a red", ["blue"]) == 5
    assert first_stop("a red apple", ["apple", "red"]) == 2


def test_only_a_row_whose_own_text_holds_a_stop_ends():
    rows = torch.tensor([[1, 2, 3], [2, 0, 1]])
    assert AtStop(1, decode, ["red"])(rows, None).tolist() == [False, True]
