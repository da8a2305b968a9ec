"""`mm train`."""

from typing import Annotated

import typer

app = typer.Typer()


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

    RECIPE is caption, vqa, chat, retrieval, classify, pretrain, distill, or a file of settings (YAML, JSON).

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
    from .. import train as command
    from ..printing import say

    if show_recipes:
        command.list_recipes(say)
    elif show_all:
        typer.echo(command.list_settings())
    else:
        code = command.train(words or [], say)
        if code:
            raise typer.Exit(code)
