"""The `mm` command line: what there is to type, and nothing else.

Only typer is imported here, so that `mm --help` answers at once; each command imports `mm` (and with it torch) when it
runs. The work is done by the functions of `mm.cli`, one file a command.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

BAD_INPUT = 2  # exit code of a wrong option too, so a script needs to know one number

app = typer.Typer(
    name="mm",
    help="MM: captions for pictures, with multimodal encoder-fusion-decoder models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mm {version('mm-transformers')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the command."""


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn the errors that mean bad input into a line on stderr, with a line for each fault where several are listed,
    and exit code 2; the rest keep their traceback."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output went away (`mm caption … | head -1`): not a fault of the input
        raise
    except Exception as error:
        if not isinstance(error, (ValueError, TypeError, OSError)):
            from mm.configuration.hub_files import is_of_the_connection

            if not is_of_the_connection(error):
                raise
            error = OSError(f"the Hub cannot be reached: {error}")
        from mm.cli.printing import printable

        lines = re.sub(r"\n(?!  (- |\.\.\. ))", " ", str(error)).split("\n")  # faults that are listed keep their lines
        typer.echo("mm: " + "\n".join(printable(line, sys.stderr) for line in lines), err=True)
        raise typer.Exit(BAD_INPUT) from None


def _say(line: object) -> None:
    """A line on stdout, whatever the names in it hold."""
    from mm.cli.printing import printable

    typer.echo(printable(line))


@app.command()
def caption(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", exists=True, help="Pictures, or folders of pictures.")
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
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures captioned at a time.")] = 8,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the score.")] = False,
) -> None:
    """Caption pictures: one line each, file name, tab, caption."""
    with _errors_in_words():
        from mm.cli.caption import print_captions

        all_read = print_captions(
            paths,
            model=model,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            prompt=prompt,
            batch_size=batch_size,
            json_lines=json_lines,
        )
    if not all_read:
        raise typer.Exit(BAD_INPUT)


@app.command()
def transcribe(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Sounds.")],
    model: Annotated[str, typer.Option(metavar="DIR", help="Folder or Hub id of a Whisper of MM (mm convert).")],
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="txt, srt, vtt or json (a line each).")
    ] = "txt",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write a file of each sound there.")
    ] = None,
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
) -> None:
    """Write what is said in sounds of any length, as it is heard: text, subtitles or JSON."""
    with _errors_in_words():
        from mm.cli.transcribe import print_transcripts

        all_read = print_transcripts(
            paths, model, form=form, output=output, language=language, task=task, words=words, prompt=prompt,
            fallback=fallback, num_beams=num_beams,
        )  # fmt: skip
    if not all_read:
        raise typer.Exit(BAD_INPUT)


@app.command()
def explain(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", exists=True, dir_okay=False, help="A picture.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The drawing to write: .png, .svg or .pdf.")
    ] = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with all weights.")] = False,
) -> None:
    """Caption a picture and show where in it each word was read.

    A line per word: the word, the place of the greatest weight (across and down, in percent of the picture), and how
    much of the weight lies in the tenth of the picture that has most of it.
    """
    with _errors_in_words():
        from mm.cli.explain import explain_picture, lines_of
        from mm.cli.printing import json_line

        found = explain_picture(
            picture, model, text=text, prompt=prompt, method=method, num_beams=num_beams, output=output
        )
        for line in [json_line(found.to_dict())] if as_json else lines_of(found):
            typer.echo(line)


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, a Hub id or a .pth file; with --to a folder of MM.")
    ],
    output: Annotated[str | None, typer.Argument(metavar="OUT", help="The folder to write.")] = None,
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
    with _errors_in_words():
        from mm.cli.convert import convert

        convert(
            source, output, to=to, dry_run=dry_run, compare=verify, vision=vision, text=text, say=_say
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
    with _errors_in_words():
        from mm.cli.export import export

        export(model, output, to=to, say=_say)


@app.command(context_settings={"ignore_unknown_options": True}, options_metavar="")
def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE [SETTINGS]", help="", show_default=False),
    ] = None,
    show_recipes: Annotated[bool, typer.Option("--list-recipes", help="Show the recipes and exit.")] = False,
    show_all: Annotated[bool, typer.Option("--help-all", help="Show every setting and exit.")] = False,
) -> None:
    """Train a model on your files: captions, answers, retrieval, classes.

    RECIPE is caption, vqa, retrieval, classify, pretrain, distill, or a file of settings (YAML or JSON).

    \b
      mm train caption --data captions.json --media images --output runs/mine
      mm train recipe.yaml num_train_epochs=3 learning_rate=1e-4

    \b
    Data      --data FILE|FOLDER|SHARDS|NAME
              --media FOLDER              where the pictures are
              --columns caption=suffix    names of other columns
              --eval-data FILE            else --eval-share 0.1 is held out
              --on-error skip|raise       bad samples
    Start     --model FOLDER|HUB_ID       default: mm-tiny, from the package
              --preset mm-small           new weights
              --vision-tower FOLDER --text-tower FOLDER
              --freeze vision,text        parts that are not trained
              --lora 8                    adapters in place of the weights
    Training  --num-train-epochs 10 --learning-rate 1e-4
              --per-device-train-batch-size 16 --bf16
              --gradient-accumulation-steps 4 --gradient-checkpointing
              --ema 0.999 --layer-decay 0.8
              --early-stopping-patience 3 --metric-for-best-model loss
    Output    --output FOLDER             model, checkpoints, reports
              --resume                    go on from the newest checkpoint
              --dry-run                   show what would be done

    Every setting of Transformers' TrainingArguments may be given too; --help-all lists them.
    """
    with _errors_in_words():
        from mm.cli import train as command

        if show_recipes:
            command.list_recipes(_say)
        elif show_all:
            typer.echo(command.list_settings())
        else:
            code = command.train(words or [], _say)
            if code:
                raise typer.Exit(code)


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
_Beams = Annotated[int | None, typer.Option(min=1, help="Beams of the search. Default: the model's own.")]
_Longest = Annotated[int | None, typer.Option(min=1, help="Longest text that is written. Default: the model's own.")]
_Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew where a killed run left answers.")]
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
    num_beams: _Beams = None,
    max_new_tokens: _Longest = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output of another evaluation: which of the two is better?")
    ] = None,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Put the metrics into the model's README.md, too.")
    ] = False,
    fresh: _Fresh = False,
    as_json: _Json = False,
) -> None:
    """Measure a model on data: metrics with 95 % intervals, a page with the best and the worst.

    Media that cannot be read are listed and left out. Several processes:
    torchrun --nproc-per-node 2 -m mm_console evaluate MODEL DATA
    """
    with _errors_in_words():
        from mm.training.arguments import as_dict
        from mm.training.evaluating import print_evaluation

        generation = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        print_evaluation(
            _say, as_json, model, data, task, output=output, media=media, format=data_format, split=split,
            annotations=annotations, columns=as_dict("columns", columns), batch_size=batch_size, against=against,
            update_card=update_card, resume=not fresh,
            **{name: value for name, value in generation.items() if value is not None},
        )  # fmt: skip


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
    num_beams: _Beams = None,
    max_new_tokens: _Longest = None,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Put the table into the model's README.md, too.")
    ] = False,
    fresh: _Fresh = False,
    as_json: _Json = False,
) -> None:
    """For whom does a model fail? Its metric in each group, the gap of the worst, and confident errors.

    A group of few pictures is shown and not judged; the worst of the others is tested against chance.
    """
    with _errors_in_words():
        from mm.training.arguments import as_dict
        from mm.training.auditing import print_audit

        generation = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        print_audit(
            _say, as_json, model, data, groups, task, output=output, media=media, format=data_format, split=split,
            annotations=annotations, columns=as_dict("columns", columns), batch_size=batch_size,
            update_card=update_card, resume=not fresh,
            **{name: value for name, value in generation.items() if value is not None},
        )  # fmt: skip


@app.command()
def verify(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder or a Hub id of a saved model.")],
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a Hub id. Default: main.")
    ] = None,
) -> None:
    """Check a saved model: manifest, weights, configuration, processor, and one forward. Exit code 2 for a fault."""
    with _errors_in_words():
        from mm.cli.verify import print_report

        is_whole = print_report(source, _say, revision)
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
    with _errors_in_words():
        from mm.cli.push import push

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
            say=_say,
        )


@app.command()
def env() -> None:
    """Show the versions and the hardware that MM runs on (for a report of a fault)."""
    from mm.cli.env import environment
    from mm.cli.printing import printable

    for name, value in environment().items():
        typer.echo(f"{name}\t{printable(value)}")


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
    with _errors_in_words():
        from mm.cli.tune import tune

        tune(output, head_dims=head_dims, dtypes=dtypes, kernels=kernels, rows=rows, say=_say)


def main() -> None:
    """The entry point `mm`."""
    app(prog_name="mm")


if __name__ == "__main__":
    sys.exit(main())
