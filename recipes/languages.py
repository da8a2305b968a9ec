"""The names of the emoji in six languages.

"<s> red apple </s>"                    English, and what a picture without a prompt is called
"<s> <de> roter Apfel </s>"             the other languages begin with their token
"<s> what color is it? blue </s>"       a question is a prompt, the answer its continuation
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .emoji import concept_key, emojibase

LANGUAGES = ("en", "de", "fr", "es", "ru", "zh")


def token_of(language: str) -> str:
    """What a text of a language begins with; nothing for English."""
    return "" if language == "en" else f"<{language}>"


def names_by_language(
    concepts: Iterable[str], data_dir: str | Path | None = None, languages: Sequence[str] = LANGUAGES
) -> dict[str, dict[str, str]]:
    """{language: {concept: name}}; English in lower case, the others as published, where German nouns are capital."""
    wanted, found = set(concepts), {}
    for language in languages:
        labels = {concept_key(entry["hexcode"]): entry["label"].strip() for entry in emojibase(language, data_dir)}
        found[language] = {
            key: label.lower() if language == "en" else label for key, label in labels.items() if key in wanted
        }
    return found
