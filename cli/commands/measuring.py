"""`mm evaluate` and `mm audit`: how well a model does on data, and for whom it fails."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


# What evaluate and audit are given alike.
_Model = Annotated[str, typer.Argument(metavar="MODEL", help="A folder or a Hub id of a saved model.")]
_Data = Annotated[str, typer.Argument(metavar="DATA", help="An annotation file, a table, a folder or shards.")]
_Task = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="caption, vqa, retrieval or classify. Default: by the model's class."),
]
_Media = Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the pictures, videos or sounds.")]
_Format = Annotated[
    str, typer.Option("--format", metavar="NAME", help="Format of the data: coco, vqa, table, folder, ...")
]
_Split = Annotated[str | None, typer.Option(metavar="NAME", help="Split, of data that has several.")]
_Annotations = Annotated[str | None, typer.Option(metavar="FILE", help="The answers, for VQA.")]
_Columns = Annotated[
    str | None, typer.Option(metavar="A=B,...", help="Names of other columns: caption=suffix,file=image.")
]
_BatchSize = Annotated[int, typer.Option(min=1, help="Texts in a batch.")]
_Workers = Annotated[int | None, typer.Option(min=0, help="Processes that read ahead. Default: two for many samples.")]
_Beams = Annotated[int | None, typer.Option(min=1, help="Beams of the search. Default: the model's own.")]
_Longest = Annotated[int | None, typer.Option(min=1, help="Longest text that is written. Default: the model's own.")]
_Resume = Annotated[bool, typer.Option("--resume/--fresh", help="Go on where a killed run left answers, or anew.")]
_Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ... Default: a GPU, if any.")]
_Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="float32, bfloat16 or float16.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


@app.command()
def evaluate(
    model: _Model,
    data: _Data,
    task: _Task = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write metrics, answers and a page; a killed run goes on."),
    ] = None,
    media: _Media = None,
    data_format: _Format = "auto",
    split: _Split = None,
    annotations: _Annotations = None,
    columns: _Columns = None,
    batch_size: _BatchSize = 8,
    workers: _Workers = None,
    num_beams: _Beams = None,
    max_new_tokens: _Longest = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output of another evaluation: which of the two is better?")
    ] = None,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Put the metrics into the model's README.md, too.")
    ] = False,
    resume: _Resume = True,
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: _Json = False,
) -> None:
    """Measure a model on data: metrics with 95 % intervals, a page with the best and the worst.

    Media that cannot be read are listed and left out. Several processes:
    torchrun --nproc-per-node 2 -m mm_console evaluate MODEL DATA
    """
    from ...training.arguments import as_dict
    from ...training.evaluating import print_evaluation
    from ..printing import BAD_INPUT, say

    generation = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    all_read = print_evaluation(
        say, as_json, model, data, task, output=output, media=media, format=data_format, split=split,
        annotations=annotations, columns=as_dict("columns", columns), batch_size=batch_size, workers=workers,
        against=against, update_card=update_card, resume=resume, device=device, dtype=dtype,
        **{name: value for name, value in generation.items() if value is not None},
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)


@app.command()
def audit(
    model: _Model,
    data: _Data,
    groups: Annotated[
        str, typer.Option(metavar="COLUMN", help="The column of the groups; label: the right class (classify).")
    ],
    task: _Task = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write groups, answers and a page; a killed run goes on."),
    ] = None,
    media: _Media = None,
    data_format: _Format = "auto",
    split: _Split = None,
    annotations: _Annotations = None,
    columns: _Columns = None,
    batch_size: _BatchSize = 8,
    workers: _Workers = None,
    num_beams: _Beams = None,
    max_new_tokens: _Longest = None,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Put the table into the model's README.md, too.")
    ] = False,
    resume: _Resume = True,
    device: _Device = None,
    dtype: _Dtype = None,
    as_json: _Json = False,
) -> None:
    """For whom does a model fail? Its metric in each group, the gap of the worst, and confident errors.

    A group of few pictures is shown and not judged; the worst of the others is tested against chance.
    """
    from ...training.arguments import as_dict
    from ...training.auditing import print_audit
    from ..printing import BAD_INPUT, say

    generation = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    all_read = print_audit(
        say, as_json, model, data, groups, task, output=output, media=media, format=data_format, split=split,
        annotations=annotations, columns=as_dict("columns", columns), batch_size=batch_size,
        workers=workers, update_card=update_card, resume=resume, device=device, dtype=dtype,
        **{name: value for name, value in generation.items() if value is not None},
    )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)
