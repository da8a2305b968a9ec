"""`mm ask`, `mm classify` and `mm match`: questions, labels and texts about your files."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ... Default: a GPU, if any.")]
_Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="float32, bfloat16 or float16.")]
_BatchSize = Annotated[int, typer.Option(min=1, help="Files at a time.")]
_Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Folders with all folders below.")]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write JSON lines there, as they come.")
]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on with --output; what it has is not done again.")]
_Workers = Annotated[int | None, typer.Option(min=0, help="Processes that read ahead. Default: two for many files.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command()
def ask(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH... [QUESTION]...",
            help="Files, folders, patterns, -: names on stdin; then questions. Default: on stdin, a line each.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder or Hub id of a model. Default: the one in the package.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Rank these answers, a line each.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many of --answers.")] = 3,
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Beams of the search. Default: the model's own.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer. Default: the model's own.")
    ] = None,
    batch_size: _BatchSize = 8,
    recursive: _Recursive = False,
    output: _Output = None,
    resume: _Resume = False,
    workers: _Workers = None,
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: _Json = False,
) -> None:
    """Ask about pictures, videos and sounds: question, tab, answer; before them the name, where it is not one file.

    Without a question they are read from stdin.
    """
    from ..ask import ask as work
    from ..media_lists import files_and_texts
    from ..printing import BAD_INPUT

    paths, questions = files_and_texts(words, "questions")
    all_read = work(
        paths, questions, typer.echo, model=model, answers=answers, top_k=top_k, num_beams=num_beams,
        max_new_tokens=max_new_tokens, batch_size=batch_size, recursive=recursive, output=output, resume=resume,
        workers=workers, device=device, dtype=dtype, as_json=as_json,
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)


@app.command()
def classify(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files, folders, patterns; -: names on stdin.")
    ],
    model: Annotated[
        str, typer.Option(metavar="DIR", help="Folder or Hub id of a model that compares or classifies.")
    ],
    labels: Annotated[
        str | None, typer.Option(metavar="A,B|FILE", help="Labels of a model that compares; a head has its own.")
    ] = None,
    template: Annotated[str, typer.Option(metavar="TEXT", help="The label goes in the place of {}.")] = (
        "a photo of {}"
    ),
    text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A question that a head reads with each file.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels of each file.")] = 1,
    batch_size: _BatchSize = 16,
    recursive: _Recursive = False,
    output: _Output = None,
    resume: _Resume = False,
    workers: _Workers = None,
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: _Json = False,
) -> None:
    """Label files: name, tab, label, tab, score. Zero-shot by --labels, or by the model's own head."""
    from ..classify import classify as work
    from ..printing import BAD_INPUT

    all_read = work(
        paths, model=model, labels=labels, template=template, text=text, top_k=top_k,
        batch_size=batch_size, recursive=recursive, output=output, resume=resume, workers=workers, device=device,
        dtype=dtype, as_json=as_json,
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)


@app.command()
def match(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH... TEXT...", help="Files, folders, patterns, -: names on stdin; then texts to compare with."
        ),
    ],
    model: Annotated[str, typer.Option(metavar="DIR", help="Folder or Hub id of an MMForImageTextRetrieval.")],
    batch_size: _BatchSize = 16,
    recursive: _Recursive = False,
    output: _Output = None,
    resume: _Resume = False,
    workers: _Workers = None,
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: _Json = False,
) -> None:
    """How well texts fit files, the best first: similarity, tab, probability of a match, tab, text; before them the
    name, where it is not one file."""
    from ..ask import match as work
    from ..media_lists import files_and_texts
    from ..printing import BAD_INPUT

    paths, texts = files_and_texts(words, "texts")
    all_read = work(
        paths, texts, typer.echo, model=model, batch_size=batch_size, recursive=recursive, output=output,
        resume=resume, workers=workers, device=device, dtype=dtype, as_json=as_json,
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)
