"""The settings of a server."""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ServeSettings:
    """What `mm serve` may be told.

    max_batch: requests that the model answers together; 1: each alone. batch_wait: seconds that it waits for more.
    max_queue: requests that may wait; more are refused (503). timeout: seconds for a request (504).
    cache_bytes: of what the image tower made of the latest pictures. reading_threads: that read pictures.
    max_body: bytes of a request. max_images: pictures in one. max_new_tokens: most that a request may ask for.
    max_text: letters of a text. api_keys: one of them is asked for, if there are any.
    allow_urls: fetch http(s) links of pictures, from public addresses. allow_paths: a folder whose files may be named.
    """

    max_batch: int = 16
    batch_wait: float = 0.002
    max_queue: int = 256
    timeout: float = 60.0
    cache_bytes: int = 256 << 20
    reading_threads: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    max_body: int = 32 << 20
    max_images: int = 8
    max_new_tokens: int = 512
    max_text: int = 20_000
    api_keys: tuple[str, ...] = ()
    allow_urls: bool = False
    allow_paths: Path | None = None

    def __post_init__(self):
        for name in (
            "max_batch",
            "max_queue",
            "reading_threads",
            "max_body",
            "max_images",
            "max_new_tokens",
            "max_text",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.timeout <= 0 or self.batch_wait < 0 or self.cache_bytes < 0:
            raise ValueError("timeout must be above 0; batch_wait and cache_bytes must be 0 or more")
        if any(not key.strip() or not key.isascii() for key in self.api_keys):
            raise ValueError("an API key is empty, or has letters that are not ASCII")
        if self.allow_paths is not None and not Path(self.allow_paths).is_dir():
            raise ValueError(f"allow_paths={str(self.allow_paths)!r} is no folder")
