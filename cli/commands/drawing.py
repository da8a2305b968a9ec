"""`mm draw`: pictures of texts."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def draw(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to draw; -: a line each on stdin.")],
    model: Annotated[
        str, typer.Option(metavar="DIR", help="Folder or Hub id of a model that draws, with its image tokenizer.")
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Pictures of each text.")] = 4,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for them. Default: this one; with --sheet none."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all on one sheet, a row for each text: .png, .jpg.")
    ] = None,
    style: Annotated[
        str | None, typer.Option(metavar="WORD", help="Added to each text after a comma, such as twemoji.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and text give the same pictures.")] = 0,
    guidance: Annotated[
        float | None, typer.Option(metavar="SCALE", help="Above 1: nearer to the text, at twice the work.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Below 1: likelier pictures, and more alike.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among so many codes. 0: all.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of a model that draws in parallel (MMForMaskedLM). Default: 8.")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="DIR", help="An MMForImageTextRetrieval: the best by its score first.")
    ] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="So many of --n, the first ones. Default: all.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts drawn at a time; changes no picture.")] = 4,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output; texts that have their pictures are left out.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ... Default: a GPU, if any.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="float32, bfloat16 or float16.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Draw pictures of texts: text, tab, file."""
    from ..draw import draw as work

    work(
        texts, typer.echo, model=model, n=n, output=output, sheet=sheet, style=style, seed=seed, guidance=guidance,
        temperature=temperature, top_k=top_k, steps=steps, rerank=rerank, keep=keep, batch_size=batch_size,
        resume=resume, device=device, dtype=dtype, as_json=as_json,
    )  # fmt: skip
