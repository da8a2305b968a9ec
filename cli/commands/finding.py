"""`mm embed` and `mm search`: an index of files, and what is like a text or a picture in it."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ... Default: a GPU, if any.")]
_Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="float32, bfloat16 or float16.")]
_Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Folders with all folders below.")]
_Workers = Annotated[int | None, typer.Option(min=0, help="Processes that read ahead. Default: two for many files.")]
_Json = Annotated[bool, typer.Option("--json", help="JSON, a line each.")]


@app.command()
def embed(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files, folders, patterns; -: names on stdin.")
    ],
    index: Annotated[
        Path,
        typer.Option("--index", "--output", "-o", metavar="DIR", help="The index to write, or to bring up to date."),
    ],
    model: Annotated[str, typer.Option(metavar="DIR", help="Folder or Hub id of an MMForImageTextRetrieval.")],
    recursive: _Recursive = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Files encoded at a time.")] = 32,
    workers: _Workers = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Make a graph for mm search --approximate ('.\\[index]').")
    ] = False,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="local, or ray: shares the files out ('.\\[ray]').")
    ] = "local",
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Of --engine ray: models at work. Default: as many as it has GPUs or CPUs."),
    ] = None,
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: _Json = False,
    resume: Annotated[bool, typer.Option("--resume", help="What it does without, too.")] = False,
) -> None:
    """Embed pictures, videos and sounds into an index for mm search.

    Again with the same index it encodes only what is new or changed, and drops what is not there any more. A killed
    run goes on where it was.
    """
    from ..embed import embed as work
    from ..printing import BAD_INPUT

    all_read = work(
        paths, index, model, typer.echo, recursive=recursive, batch_size=batch_size, workers=workers,
        approximate=approximate, engine=engine, actors=actors, device=device, dtype=dtype, as_json=as_json,
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)


@app.command()
def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="What mm embed wrote.")],
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT|FILE...",
            help="Texts, files, patterns, folders (named with a /); -: a query a line on stdin.",
        ),
    ],
    top_k: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    query_as: Annotated[
        str, typer.Option("--as", metavar="NAME", help="text or file, where it could be both.")
    ] = "auto",
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Read text and file together: by the probability of a match.")
    ] = False,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Ask the graph of mm embed --approximate.")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture of the hits: .png, .jpg.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="DIR", help="The model of the index. Default: where it was.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Queries at a time.")] = 32,
    recursive: _Recursive = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write JSON lines there, as they come.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output; what it has is not done again.")
    ] = False,
    workers: _Workers = None,
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: _Json = False,
) -> None:
    """Find the files of an index that are most like texts or files: score, tab, path, the best first; before them the
    query, where there are several."""
    from ..embed import search as work
    from ..printing import BAD_INPUT

    all_read = work(
        index, queries, typer.echo, model=model, top_k=top_k, query_as=query_as, with_matching=rerank,
        approximate=approximate, sheet=sheet, recursive=recursive, batch_size=batch_size, output=output,
        resume=resume, workers=workers, device=device, dtype=dtype, as_json=as_json,
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)
