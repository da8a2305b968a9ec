"""`mm verify`: whether a saved model is complete."""

import os
import re
from collections.abc import Callable

from huggingface_hub import snapshot_download

from ..training.verify import verify


def print_report(source: str, say: Callable[[str], None], revision: str | None = None) -> bool:
    """One line a check; whether nothing is wrong.

    Args:
        source: a folder, or a Hub id, whose files are fetched into the cache first.
    """
    if not os.path.isdir(source):
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) or os.path.exists(source):
            raise ValueError(f"{source!r} is neither a folder nor a Hub id (name/model)")
        source = snapshot_download(source, revision=revision)
    checks = verify(source)
    for check in checks:
        say(f"{'FAULT' if check.is_fault else 'ok':6}{check.name:10}{check.told}")
    faults = sum(check.is_fault for check in checks)
    say(f"{source}: {faults or 'no'} fault{'s' * (faults != 1)}")
    return not faults
