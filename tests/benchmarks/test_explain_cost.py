"""benchmarks/explain_cost.py runs, and its weights are those of eager attention."""

import pytest
from explain_cost import main


@pytest.mark.slow
def test_it_runs_on_a_small_model(capsys):
    assert main(["--tiny", "--pairs", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("from eager attention's") == 2 and "explain ids" in said
