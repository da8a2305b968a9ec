"""Saved processors whose files find MM's classes for those who have not imported MM (`configuration/auto_map.py`)."""

from pathlib import Path
from typing import Any

from ...configuration.auto_map import register_for_auto_class


class SavesItsCode:
    """Before a class of Transformers: what `save_pretrained` and pushes to the Hub write is finished by `_finish`."""

    register_for_auto_class = classmethod(register_for_auto_class)

    def _finish(self, folder: Path) -> None:
        raise NotImplementedError

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As in Transformers, with what finds the class for those who have not imported MM."""
        files = super().save_pretrained(save_directory, push_to_hub, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]: Transformers'
        self._finish(Path(save_directory))
        return files

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        self._finish(Path(working_dir))
        return super()._upload_modified_files(working_dir, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]: Transformers'
