"""The page: a tab for each thing that the models can do. Every model runs in one queue, a request at a time."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]: build/apps has it, .venv has not

from ..processing.images.limits import MediaDecodeError
from . import tasks

WAITING = 32  # requests that may wait; more are told to come again
MOST_BEAMS, MOST_LETTERS, MOST_QUESTIONS = 8, 2000, 20
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}


def build_page(models: dict[str, tuple[Any, Any]], index: Any = None) -> gr.Blocks:
    """The page of models {class name: (model, processor)}.

    Args:
        index: an MMIndex of the model that compares; None: no search.
    """
    with gr.Blocks(title="MM", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown("# MM\nWhat is read here stays on this machine.")
        with gr.Tabs():
            for name, tab, build in (
                ("MMForConditionalGeneration", "Caption", _caption),
                ("MMForConditionalGeneration", "Ask", _ask),
                ("MMForImageTextRetrieval", "Classify", _classify),
                ("MMForSequenceClassification", "Classify", _classify),
                ("MMForSpeechSeq2Seq", "Listen", _listen),
            ):
                if name in models:
                    with gr.Tab(tab):
                        build(*models[name])
            if index is not None:
                with gr.Tab("Search"):
                    _search(*models["MMForImageTextRetrieval"], index)
    page.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
    return page


def in_words(work: Callable[..., Any]) -> Callable[..., Any]:
    """Errors that mean bad input are shown in their own words."""

    @functools.wraps(work)
    def run(*given: Any) -> Any:
        if any(isinstance(value, str) and len(value) > MOST_LETTERS for value in given):
            raise gr.Error(f"a text has more than {MOST_LETTERS} letters", print_exception=False)
        try:
            return work(*given)
        except (MediaDecodeError, ValueError, TypeError, OSError) as error:
            words = str(error.__cause__ or error)  # the cause is without its place among the media of a call
            for path in given:
                words = words.replace(str(path), path.name) if isinstance(path, Path) else words
            raise gr.Error(words, print_exception=False) from None

    return run


def _picture(label: str = "Picture") -> gr.Image:
    """A place for a picture, which comes as the path of what was sent: MM opens it, under the limits of load_image,
    and gradio does not before. (A subclass would do, but gradio writes a .pyi file beside the source of each.)"""
    place = gr.Image(label=label, sources=["upload", "clipboard", "webcam"], height=320, buttons=[])
    place.preprocess = lambda payload: None if payload is None else Path(payload.path)
    return place


def _needed(picture: Path | None) -> Path:
    if picture is None:
        raise ValueError("no picture: give one first")
    return picture


def _caption(model: Any, processor: Any) -> None:
    with gr.Row():
        with gr.Column():
            picture = _picture()
            beams = gr.Slider(1, MOST_BEAMS, 3, step=1, label="Beams")
            button = gr.Button("Caption", variant="primary")
        with gr.Column():
            words = gr.HighlightedText(
                label="Caption: click a word to see where it was read", elem_id="words", show_legend=False,
                combine_adjacent=False, interactive=False,
            )  # fmt: skip
            overlay = gr.Image(label="Where it was read", interactive=False, height=320, elem_id="overlay", buttons=[])
            table = gr.Dataframe(headers=["caption", "log-probability a token"], label="Beams", interactive=False)
    explained = gr.State()

    def caption(path: Path | None, count: float):
        path = _needed(path)
        rows, found = tasks.captions(model, processor, path, int(count))
        shown = [(word, 0.2) for word in found.words]
        return shown, None, [[text, round(score, 3)] for text, score in rows], (path, found)

    def show(held: Any, event: gr.SelectData):
        if held is None:
            raise gr.Error("caption a picture first", print_exception=False)
        return tasks.over_picture(*held, word=event.index)

    button.click(in_words(caption), [picture, beams], [words, overlay, table, explained], **MODEL)
    words.select(show, explained, overlay, **MODEL)


def _ask(model: Any, processor: Any) -> None:
    with gr.Row():
        with gr.Column():
            picture = _picture()
            questions = gr.Textbox(label="Questions, or beginnings of a caption: one a line", lines=4)
            button = gr.Button("Ask", variant="primary")
        table = gr.Dataframe(headers=["question", "answer"], label="Answers", interactive=False, wrap=True)

    def ask(path: Path | None, asked: str):
        return tasks.answers(model, processor, _needed(path), asked, most=MOST_QUESTIONS)

    button.click(in_words(ask), [picture, questions], table, **MODEL)


def _classify(model: Any, processor: Any) -> None:
    has_own = not hasattr(model, "encode_labels")
    with gr.Row():
        with gr.Column():
            picture = _picture()
            wanted = gr.Textbox(label="Labels, with commas between them", visible=not has_own)
            button = gr.Button("Classify", variant="primary")
        found = gr.Label(label="Labels", num_top_classes=10)

    def classify(path: Path | None, names: str):
        return tasks.labels(model, processor, _needed(path), names)

    button.click(in_words(classify), [picture, wanted], found, **MODEL)


def _search(model: Any, processor: Any, index: Any) -> None:
    with gr.Row():
        with gr.Column(scale=1):
            text = gr.Textbox(label=f"Text, in {len(index)} files")
            picture = _picture("or a picture, or both")
            button = gr.Button("Search", variant="primary")
        with gr.Column(scale=2):
            found = gr.Gallery(label="Found", columns=3, interactive=False, buttons=[])

    def search(words: str, path: Path | None):
        return tasks.hits(model, processor, index, words, path)

    gr.on([button.click, text.submit], in_words(search), [text, picture], found, **MODEL)


def _listen(model: Any, processor: Any) -> None:
    sound = gr.Audio(label="Sound", sources=["microphone", "upload"], type="filepath", buttons=[])
    button = gr.Button("Write it down", variant="primary")
    text = gr.Textbox(label="What is said", lines=6, interactive=False)

    def listen(path: str | None):
        if path is None:
            raise ValueError("no sound: record or give one first")
        return tasks.spoken(model, processor, Path(path))

    button.click(in_words(listen), sound, text, **MODEL)
