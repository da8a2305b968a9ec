"""`mm ask`, `mm classify` and `mm match`: questions, labels and texts about your files."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_Medium = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A picture, video or sound.")
]
_Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ... Default: a GPU, if any.")]
_Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="float32, bfloat16 or float16.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command()
def ask(
    medium: _Medium,
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="[QUESTION]...", help="Default: read from stdin, a line each.")
    ] = None,
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
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: _Json = False,
) -> None:
    """Ask about a picture, video or sound: question, tab, answer. Without a question they are read from stdin."""
    from ..ask import ask as work

    work(
        medium, questions or [], typer.echo, model=model, answers=answers, top_k=top_k, num_beams=num_beams,
        max_new_tokens=max_new_tokens, device=device, dtype=dtype, as_json=as_json,
    )  # fmt: skip


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
    batch_size: Annotated[int, typer.Option(min=1, help="Files at a time.")] = 16,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders with all folders below.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write JSON lines there, as they come.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output; what it has is not done again.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read ahead. Default: two for many files.")
    ] = None,
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
    medium: _Medium,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts to compare it with.")],
    model: Annotated[str, typer.Option(metavar="DIR", help="Folder or Hub id of an MMForImageTextRetrieval.")],
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: _Json = False,
) -> None:
    """How well texts fit a picture, the best first: similarity, tab, probability of a match, tab, text."""
    from ..ask import match as work

    work(medium, texts, typer.echo, model=model, device=device, dtype=dtype, as_json=as_json)
