"""`mm convert`, `mm export`, `mm verify` and `mm push`: saved models, in and out."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, a Hub id or a .pth file; with --to a folder of MM.")
    ],
    output: Annotated[str | None, typer.Argument(metavar="OUT", help="The folder to write, new or empty.")] = None,
    to: Annotated[
        str | None, typer.Option(metavar="FAMILY", help="Write SOURCE, a model of MM, back as this family's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run both models on the same inputs; fail where they differ.")
    ] = False,
    vision: Annotated[
        str | None, typer.Option(metavar="DIR", help="The CLIP that a file of OpenFlamingo was trained with.")
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="DIR", help="The decoder that it was trained with.")] = None,
) -> None:
    """Turn a published checkpoint (BLIP, VisionEncoderDecoder, GIT, ...) into a model of MM, or back."""
    from ..convert import convert
    from ..printing import say

    convert(
        source, output, to=to, dry_run=dry_run, compare=verify, vision=vision, text=text, say=say
    )  # fmt: skip


@app.command()
def export(
    output: Annotated[str, typer.Argument(metavar="OUT", help="The folder to write, new or empty.")],
    model: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder or Hub id of a model. Default: the one in the package.")
    ] = None,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="onnx, or hub: weights with the code they need.")] = "onnx",
) -> None:
    """Write a model for places where MM is not installed: ONNX graphs, or a repository with its code."""
    from ..export import export
    from ..printing import say

    export(model, output, to=to, say=say)


@app.command()
def verify(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder or a Hub id of a saved model.")],
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a Hub id. Default: main.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Check a saved model: manifest, weights, configuration, processor, and one forward. Exit code 2 for a fault."""
    from ..printing import BAD_INPUT, say
    from ..verify import print_report

    is_whole = print_report(source, say, revision, as_json)
    if not is_whole:
        raise typer.Exit(BAD_INPUT)


@app.command()
def push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A saved model, with or without its processor.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Its Hub id (you/name); made if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Made if there is none. Default: main.")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose the change as a pull request.")] = False,
    tag: Annotated[str | None, typer.Option(metavar="NAME", help="Name the new commit.")] = None,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Of the commit.")] = "Upload model",
    no_code: Annotated[bool, typer.Option("--no-code", help="Without MM's code: it needs `import mm`.")] = False,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Overwrite a README.md that was edited on the Hub.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files to upload and to delete, and change nothing.")
    ] = False,
) -> None:
    """Check a saved model (mm verify), and push it with processor, code and card to the Hub, in one commit."""
    from ..printing import say
    from ..push import push

    push(
        folder,
        repository,
        private=private or None,
        revision=revision,
        create_pr=create_pr,
        tag=tag,
        commit_message=message,
        code=not no_code,
        replace_card=replace_card,
        dry_run=dry_run,
        say=say,
    )
