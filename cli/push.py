"""`mm push`: a saved model to the Hub."""

from collections.abc import Callable
from typing import Any

from ..training.publish import push_to_hub


def push(folder: str, repository: str, *, dry_run: bool, say: Callable[[str], None], **how: Any) -> None:
    """Pushes, or with `dry_run` lists what a push would do; see `push_to_hub`."""
    done = push_to_hub(folder, repository, dry_run=dry_run, **how)
    if dry_run:
        for line in done.lines():
            say(line)
        say("nothing was changed (--dry-run)")
        return
    for name in done.deletes:
        say(f"deleted {name}")
    if done.is_unchanged:
        say("nothing to push: the repository holds these files already")
    else:
        say(f"{len(done.uploads)} files, {sum(done.uploads.values()):,} bytes; README.md {done.card}")
    say(str(done.url))
