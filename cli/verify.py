"""`mm verify`: whether a saved model is complete."""

import os
import re
from collections.abc import Callable

from huggingface_hub import snapshot_download

from ..training.verify import verify
from .caption import without_other_bars
from .printing import json_line


def print_report(source: str, say: Callable[[str], None], revision: str | None = None, as_json: bool = False) -> bool:
    """One line a check, as JSON if asked for; whether nothing is wrong.

    Args:
        source: a folder, or a Hub id, whose files are fetched into the cache first.
    """
    if not os.path.isdir(source):
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) or os.path.exists(source):
            raise ValueError(f"{source!r} is neither a folder nor a Hub id (name/model)")
        source = snapshot_download(source, revision=revision)
    with without_other_bars():
        checks = verify(source)
    faults = sum(check.is_fault for check in checks)
    for check in checks:
        held = {"check": check.name, "told": check.told, "fault": check.is_fault}
        say(json_line(held) if as_json else f"{'FAULT' if check.is_fault else 'ok':6}{check.name:10}{check.told}")
    if not as_json:
        say(f"{source}: {faults or 'no'} fault{'s' * (faults != 1)}")
    return not faults
