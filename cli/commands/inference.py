"""`mm caption`, `mm transcribe` and `mm explain`: what a model says of your files."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ... Default: a GPU, if any.")]
_Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="float32, bfloat16 or float16.")]
_Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Folders with all folders below.")]
_Workers = Annotated[int | None, typer.Option(min=0, help="Processes that read ahead. Default: two for many files.")]
_Engine = Annotated[
    str, typer.Option(metavar="NAME", help="local, or ray: Parquet in the folder --output ('.\\[ray]').")
]
_Actors = Annotated[
    int | None, typer.Option(min=1, help="Of --engine ray: models at work. Default: as many as it has GPUs or CPUs.")
]


@app.command()
def caption(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Files, folders, patterns; -: names on stdin."),
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder or Hub id of a model or adapter. Default: the one in the package."),
    ] = None,
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Beams of the search. Default: the model's own.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest caption. Default: the model's own.")
    ] = None,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="Words that every caption starts with, or a question.")
    ] = "",
    unsure_below: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="P",
            help="Say 'unsure' where a caption is less likely right. Default: the model's own.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Files captioned at a time.")] = 16,
    recursive: _Recursive = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write JSON lines there, as they come.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output; what it has is not done again.")
    ] = False,
    workers: _Workers = None,
    engine: _Engine = "local",
    actors: _Actors = None,
    device: _Device = None,
    dtype: _Dtype = None,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the score.")] = False,
) -> None:
    """Caption pictures, videos and sounds: one line each, file name, tab, caption.

    A file that cannot be read is told on stderr, and the others are captioned; the exit code is then 2.
    """
    from ..caption import print_captions
    from ..printing import BAD_INPUT

    all_read = print_captions(
        paths, model=model, num_beams=num_beams, max_new_tokens=max_new_tokens, prompt=prompt,
        unsure_below=unsure_below, batch_size=batch_size, recursive=recursive, output=output, resume=resume,
        workers=workers, device=device, dtype=dtype, json_lines=json_lines, engine=engine, actors=actors,
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)


@app.command()
def transcribe(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Sounds, folders, patterns; -: names on stdin.")
    ],
    model: Annotated[str, typer.Option(metavar="DIR", help="Folder or Hub id of a Whisper of MM (mm convert).")],
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="txt, srt, vtt or json (a line each).")
    ] = "txt",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write a file of each sound there.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output; what it has is not heard again.")
    ] = False,
    recursive: _Recursive = False,
    language: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as en. Default: found out in the first window.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="transcribe, or translate into English.")] = None,
    words: Annotated[bool, typer.Option("--words", help="The times of words too (--format json).")] = False,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Words and names to expect.")] = "",
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Try loops and unlikely text again, warmer; leave silence out.")
    ] = False,
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Beams of the search. Default: the model's own.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Files heard at a time, a window of each; changes no text.")
    ] = 1,
    workers: _Workers = None,
    engine: _Engine = "local",
    actors: _Actors = None,
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="--format json.")] = False,
) -> None:
    """Write what is said in sounds of any length, as it is heard: text, subtitles or JSON."""
    from ..printing import BAD_INPUT
    from ..transcripts import print_transcripts

    if as_json and form not in ("txt", "json"):
        raise ValueError(f"--json is --format json, and --format {form} is given too; leave one out")
    all_read = print_transcripts(
        paths, model, form="json" if as_json else form, output=output, resume=resume, recursive=recursive,
        device=device, dtype=dtype, language=language, task=task, words=words, prompt=prompt,
        fallback=fallback, num_beams=num_beams, batch_size=batch_size, workers=workers, engine=engine, actors=actors,
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)


@app.command()
def explain(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Pictures, folders, patterns; -: names on stdin.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="The drawing to write: .png, .svg or .pdf. Of several: a folder, with a .png of each.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the folder --output; what it has is not done again.")
    ] = False,
    recursive: _Recursive = False,
    model: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder or Hub id of a model. Default: the one in the package.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Explain this text instead of the model's own caption.")
    ] = None,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="Words that the caption starts with, or a question.")
    ] = "",
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="attention, rollout, grad, occlusion or integrated_gradients."),
    ] = "attention",
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Beams of the search. Default: the model's own.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
    workers: _Workers = None,
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a picture, with all weights.")] = False,
) -> None:
    """Caption pictures and show where in them each word was read.

    A line per word: the word, the place of the greatest weight (across and down, in percent of the picture), and how
    much of the weight lies in the tenth of the picture that has most of it; before them the name, where it is not one
    file.
    """
    from ..explain import explain as work
    from ..printing import BAD_INPUT

    all_read = work(
        paths, model, text=text, prompt=prompt, method=method, num_beams=num_beams, output=output, resume=resume,
        recursive=recursive, batch_size=batch_size, workers=workers, device=device, dtype=dtype, as_json=as_json,
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)
