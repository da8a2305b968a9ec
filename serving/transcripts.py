"""Segments of speech in OpenAI's formats."""

from collections.abc import Sequence
from typing import Any

from ..cli.transcripts import HEAD, clock


def transcript(segments: Sequence[Any], form: str) -> str | dict[str, Any]:
    """A text for "text", "srt" and "vtt"; a dict for "json" and "verbose_json"."""
    text = " ".join(segment.text for segment in segments)
    if form == "text":
        return text + "\n"
    if form == "json":
        return {"text": text}
    if form == "verbose_json":
        told = [
            {"id": number, "start": round(one.start, 3), "end": round(one.end, 3), "text": one.text}
            for number, one in enumerate(segments)
        ]
        return {"task": "transcribe", "duration": told[-1]["end"] if told else 0.0, "text": text, "segments": told}
    mark = "," if form == "srt" else "."
    cues = [
        f"{number}\n" * (form == "srt")
        + f"{clock(one.start, mark)} --> {clock(one.end, mark)}\n{one.text.replace('-->', '->')}\n"
        for number, one in enumerate(segments, 1)
    ]
    return (HEAD if form == "vtt" else "") + "\n".join(cues)
