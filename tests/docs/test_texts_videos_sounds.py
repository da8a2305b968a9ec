"""The python blocks of docs/texts-videos-sounds.md run as they stand, one after the other."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_blocks_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "texts-videos-sounds.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 6
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "docs/texts-videos-sounds.md", "exec"), scope)
