"""benchmarks/structure.py counts what it says, and what reached its aim stays there."""

import structure


def test_a_forward_stays_as_short_as_it_is():
    files, functions, frames = structure.one_forward()
    assert 10 <= files <= 14 and 40 <= functions <= 65 and 2 <= frames <= 4
    found = structure.branches()
    assert set(found) == set(structure.READ_FIRST) and 0 < max(found.values()) <= 4


def test_a_head_loads_only_what_it_needs():
    assert 10 <= structure.files_loaded("mm.modeling_mm.tasks.masked_lm") <= 20
    assert structure.files_loaded("mm.modeling_mm.tasks.generation") > 20  # drawing, ranking, explaining


def test_the_media_inputs_are_written_once():
    assert structure.media_inputs_written() == (1, 0, 0)
