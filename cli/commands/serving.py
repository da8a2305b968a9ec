"""`mm serve` and `mm demo`: models over HTTP, and a page to look at."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Folders or Hub ids, or NAME=FOLDER. Default: the one in the package."
        ),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0: for other machines.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests answered together; 1: each alone.")] = 16,
    wait: Annotated[float, typer.Option(min=0, help="Milliseconds that a batch waits for more requests.")] = 2,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more get 503.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for a request.")] = 60,
    max_body: Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most that a request may ask for.")] = 512,
    cache: Annotated[int, typer.Option(min=0, help="MiB of encoded pictures that are kept.")] = 256,
    api_key: Annotated[
        list[str] | None,
        typer.Option("--api-key", envvar="MM_API_KEY", metavar="KEY", help="Asked of clients; may be given twice."),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch links of pictures, from public addresses only.")
    ] = False,
    allow_paths: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Clients may name files below this folder.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Such as cuda, cuda:1, cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="float32, bfloat16 or float16.")] = None,
    drain: Annotated[int, typer.Option(min=0, help="Seconds for requests that are being answered at the end.")] = 30,
) -> None:
    """Serve models over HTTP: OpenAI's routes for chat, embeddings and transcriptions, and MM's own.

    \b
      mm serve --port 8000
      curl -F image=@photo.jpg localhost:8000/caption

    Routes: /v1/chat/completions, /v1/embeddings, /v1/audio/transcriptions, /v1/models, /caption, /answer, /classify,
    /explain, /metrics, /health. Ctrl-C or SIGTERM ends it after the requests that have come.
    """
    from ...serving.run import serve
    from ...serving.settings import ServeSettings

    settings = ServeSettings(
        max_batch=batch_size,
        batch_wait=wait / 1000,
        max_queue=max_queue,
        timeout=timeout,
        max_body=max_body << 20,
        max_new_tokens=max_new_tokens,
        cache_bytes=cache << 20,
        api_keys=tuple(api_key or ()),
        allow_urls=allow_urls,
        allow_paths=allow_paths,
    )
    where = {"host": host, "port": port, "device": device, "dtype": dtype}
    ended = serve(models or [], settings, **where, drain=drain, say=typer.echo)
    if not ended:  # an interpreter that ends beside a thread of torch aborts
        sys.stdout.flush()
        os._exit(0)


@app.command()
def demo(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Folders or Hub ids: at most one that captions, one that transcribes, and one that compares or has "
            "classes. Default: the one in the package, which captions and compares.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Pictures to search; needs a model that compares, as the one in the package does.",
        ),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="--folder with all folders below.")] = False,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0: for other machines.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    max_file: Annotated[int, typer.Option(min=1, help="Largest file that is taken, in MiB.")] = 32,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Such as cuda, cuda:1, cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="float32, bfloat16 or float16.")] = None,
) -> None:
    """Show a page: captions with a map of each word, questions, labels, search, speech. Nothing leaves the machine."""
    from ...demo.run import demo as work

    work(
        models or [], folder=folder, recursive=recursive, host=host, port=port, max_file_mib=max_file,
        device=device, dtype=dtype, say=typer.echo,
    )  # fmt: skip
