"""The error of data: a ValueError that may hold the report of what was read."""

from typing import Any


class DataError(ValueError):
    """Annotations that do not fit their media or their format; `report` holds all that was found."""

    def __init__(self, message: str, report: Any = None):
        super().__init__(message)
        self.report = report
