"""`mm env` and `mm tune`: the machine that MM runs on."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def env(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Show the versions and the hardware that MM runs on (for a report of a fault)."""
    from ..env import environment
    from ..printing import json_line, printable

    found = environment()
    for line in [json_line(found)] if as_json else [f"{name}\t{printable(value)}" for name, value in found.items()]:
        typer.echo(line)


@app.command()
def tune(
    output: Annotated[Path, typer.Argument(metavar="FILE", help="The table to write, a new file.")] = Path(
        "mm-kernels.json"
    ),
    head_dims: Annotated[
        str,
        typer.Option(metavar="N,N", help="Widths of an attention head: hidden_size / heads of the models you run."),
    ] = "64",
    dtypes: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="bfloat16 or float16 (they share their entries), float32.")
    ] = "bfloat16",
    kernels: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="forward; dq and dkdv (training); mass (heat maps).")
    ] = "forward,dq,dkdv,mass",
    rows: Annotated[
        str, typer.Option(metavar="N,N", help="Rows that read one picture: up to 16 (beams), up to 64, many.")
    ] = "16,64,many",
) -> None:
    """Measure tiles of the attention kernels on this machine's GPU, and write the fastest into a table.

    MM comes with tiles for every GPU that its kernels run on; this finds those of yours.

    Each candidate is compiled, checked against fp64 and timed, which takes minutes for an entry of the table. The file
    is written anew after each entry. To use it, set the environment variable MM_KERNEL_TABLE to its path.
    """
    from ..printing import say
    from ..tune import tune

    tune(output, head_dims=head_dims, dtypes=dtypes, kernels=kernels, rows=rows, say=say)
