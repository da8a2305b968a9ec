"""docs/api.md names every public name once, and nothing else."""

import re
from pathlib import Path

import pytest
from transformers.pipelines import PIPELINE_REGISTRY

import mm

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
FRONT, REST = PAGE.split("## Losses\n")
LOSSES, REST = REST.split("## Metrics\n")
METRICS, PIPELINES = REST.split("## Pipelines\n")
OUTPUTS = FRONT.split("## Outputs\n")[1]


def listed(section: str) -> list[str]:
    return re.findall(r"^\| `([\w-]+)` \|", section, flags=re.M)


def test_every_public_name_is_on_the_page_once():
    assert sorted(listed(FRONT)) == sorted(set(mm.__all__) - {"losses", "metrics"})
    assert sorted(listed(LOSSES)) == sorted(mm.losses.__all__)
    assert sorted(listed(METRICS)) == sorted(mm.metrics.__all__)


def test_every_pipeline_task_is_on_the_page():
    assert sorted(listed(PIPELINES)) == [task for task in PIPELINE_REGISTRY.get_supported_tasks() if task[:3] == "mm-"]


@pytest.mark.parametrize(("name", "autos"), re.findall(r"^\| `(\w+)` \| (`Auto[^|]+) \|", FRONT, flags=re.M))
def test_the_auto_classes_of_the_page_give_the_class(name, autos):
    import transformers

    cls = getattr(mm, name)
    for auto in re.findall(r"`(\w+)`", autos):
        found = getattr(transformers, auto)._model_mapping[cls.config_class]
        assert cls in found if isinstance(found, tuple) else found is cls  # of several the checkpoint's own


def test_every_method_of_the_page_exists():
    for name, words in re.findall(r"^\| `(MMFor\w+|MMModel)` \| `Auto[^|]*\|(.*)\|$", FRONT, flags=re.M):
        for method in re.findall(r"`(\w+)`", words):
            assert callable(getattr(getattr(mm, name), method)), (name, method)
    for method in re.findall(r"^\| `MM\w+Output` \| `([a-z_]+)`", OUTPUTS, flags=re.M):
        assert any(hasattr(getattr(mm, name), method) for name in listed(FRONT) if name.startswith("MMFor")), method
