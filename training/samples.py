"""The samples of a run: read, in one order whatever their format, in two parts that share no picture.

files ─ load_data ─► samples ─ same medium? one sample ─► sorted by what they hold ─ hash of the media ─► train, eval
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from ..data.dataset import DataReport, MMDataset, rows_left_out
from ..data.errors import DataError
from ..data.labels import class_names, numbered, places_of, renumbered
from ..data.load import load_data
from ..data.rows import ROWS, has_texts, rows_of
from ..data.shards import MMShards
from ..data.sources import MEDIA, content, media_names
from ..data.splits import connected, part_of
from .arguments import DataArguments

MOST_IN_MEMORY = 4 << 30  # bytes of shards that are read as a whole


@dataclass
class RunData:
    """What a run trains and evaluates on. report: what was read, left out and held back, a line each."""

    train: Any  # MMDataset, or a stream
    eval: MMDataset | None
    report: list[str] = field(default_factory=list)

    @property
    def is_stream(self) -> bool:
        return isinstance(self.train, IterableDataset)

    @property
    def label_names(self) -> list[str] | None:
        return getattr(self.train, "label_names", None)


def read_samples(settings: DataArguments) -> RunData:
    """The data of a run. Raises DataError, ValueError or FileNotFoundError as load_data does."""
    found = _load(settings, settings.data, settings.media, settings.split, settings.annotations)
    if isinstance(found, IterableDataset) and not settings.streaming:
        found = whole(found, str(settings.data))
    is_stream = isinstance(found, IterableDataset)
    data = RunData(found, None, [] if is_stream else lines_of(found.report))
    train: Any = found if is_stream else in_one_order(found, settings.identify)
    if settings.eval_data or settings.eval_split:
        held = _load(
            settings,
            settings.eval_data or settings.data,
            settings.eval_media or settings.media,
            settings.eval_split,
            settings.eval_annotations,
        )
        held = whole(held, str(settings.eval_data)) if isinstance(held, IterableDataset) else held
        data.report += lines_of(held.report)
        held = in_one_order(held, settings.identify)
        data.train, data.eval = train, labelled_alike(held, getattr(train, "label_names", None), "the training data")
        data.report += _shared(train, data.eval)
    elif is_stream:
        data.report.append("a stream is not split, so the run is not evaluated; give eval_data")
    else:
        data.train, data.eval = _parts(train, settings)
        data.report.append(_told(data, settings))
    return data


def _load(settings: DataArguments, source: Any, media: Any, split: str | None, annotations: str | None) -> Any:
    if source is None:
        raise ValueError("there is no data: give data (--data FOLDER)")
    given = {"media": media, "split": split, "columns": settings.columns, "annotations": annotations}
    given |= {"streaming": True} if settings.streaming and "webdataset" not in (settings.format, _kind(source)) else {}
    options = {name: value for name, value in given.items() if value is not None}
    return load_data(source, format=settings.format, on_error=settings.on_error, **options)


def _kind(source: Any) -> str:
    path = Path(source)
    return "webdataset" if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))) else ""


def lines_of(report: DataReport) -> list[str]:
    """A report with every row that was left out on a line of its own."""
    shown = DataReport(**{**vars(report), "left_out": []})
    more = [f"{rows_left_out(len(report.left_out))}:"] if report.left_out else []
    return [str(shown), *more, *(f"  {where}: {reason}" for where, reason in report.left_out)]


def whole(stream: Any, source: str) -> MMDataset:
    """A stream read to its end. ValueError for shards that are too large to be held."""
    if isinstance(stream, MMShards):
        size = sum(Path(path).stat().st_size for path in stream.shards)
        if size > MOST_IN_MEMORY:
            raise ValueError(
                f"{source}: shards of {size / 2**30:.1f} GiB are not read as a whole; give streaming=true, max_steps "
                "and eval_data"
            )
    samples = list(stream)
    report = getattr(stream, "report", None) or DataReport(source, "datasets")
    report.rows = sum(len(rows_of(sample)) for sample in samples) + len(report.left_out)
    report.samples = len(samples)
    report.media = len({digest_of(one) for sample in samples for one in media_names(sample)})
    if not samples:
        raise DataError(f"{report}: no sample is left", report)
    names = class_names([sample["label"] for sample in samples if sample.get("label") is not None])
    places = places_of(names)
    for sample in samples:
        if sample.get("label") is not None:
            sample["label"] = numbered(sample["label"], places)
    return MMDataset(samples, report, names)


def in_one_order(data: MMDataset, identify: str = "bytes", apart: str | None = None) -> MMDataset:
    """The same samples, with all texts of a medium in one, in an order that follows from what they hold.

    So one set gives one training whatever format it is read from. "id" becomes a hash of the media (of the text where
    there are none). identify: "bytes" hashes what the media hold, "name" their paths within the folder.
    apart: a column; rows of a medium with other values in it stay samples of their own, with the same id.
    """
    groups: dict[tuple, list[dict]] = {}
    for number, sample in enumerate(data.samples):
        key = _key(sample, data.root, identify)
        if "context_text" in sample:  # its rows read this text, too: those of another one stay apart
            key = (*key, f"context_text:{sample['context_text']!r}")
        value = repr(sample.get(apart)) if apart is not None and key else ""  # no part of the id
        alone = "" if key and has_texts(sample) else str(number)
        groups.setdefault((key or ("",), alone, value), []).append(sample)
    samples = []
    for (key, _, _), found in groups.items():
        rows = sorted((row for sample in found for row in rows_of(sample)), key=_order)
        beside = {name: value for name, value in found[0].items() if name not in ROWS}
        name = key if key[0] else ("", *map(repr, _order(rows[0])))
        samples.append({**beside, **_columns(rows), "id": hashlib.sha256("\n".join(name).encode()).hexdigest()[:16]})
    samples.sort(key=lambda one: (one["id"], repr(_order(rows_of(one)[0])), repr(one.get(apart)) if apart else ""))
    return MMDataset(samples, data.report, data.label_names, data.root)


def _key(sample: Mapping[str, Any], root: Path | None, identify: str) -> tuple[str, ...]:
    """What names the media of a sample, with their column; () where it has none."""
    found = []
    for column in MEDIA:
        for source in media_names({column: sample.get(column)}):
            found.append(f"{column.removesuffix('s')}:{_name(source, root, identify)}")
    return tuple(found)


def _name(source: Any, root: Path | None, identify: str) -> str:
    if identify == "name" and isinstance(source, str):
        path = Path(source)
        return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else source
    return digest_of(source)


def digest_of(source: Any) -> str:
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return source
    return hashlib.sha256(content(source)).hexdigest()


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The texts of a sample as its columns: a list for several, the value itself for one."""
    if len(rows) == 1:
        one = dict(rows[0])
        del one["row_ids"]
        return one
    names = dict.fromkeys(name for row in rows for name in row)
    if short := [name for name in names if not all(name in row for row in rows)]:
        raise DataError(f"{', '.join(short)} is given for some texts of a picture and not for others")
    return {name: [row[name] for row in rows] for name in names}


def _order(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(repr(row.get(name)) for name in ("text", "suffix", "label", "answers", "chat"))


def _parts(data: MMDataset, settings: DataArguments) -> tuple[MMDataset, MMDataset | None]:
    """The training part and the part that is held out, by a hash of the media."""
    if not settings.eval_share:
        return data, None
    shares = {"train": 1 - settings.eval_share, "eval": settings.eval_share}
    keys = [list(_key(sample, data.root, settings.identify)) or [sample["id"]] for sample in data.samples]
    found: dict[str, list[dict]] = {"train": [], "eval": []}
    for sample, key in zip(data.samples, connected(keys), strict=True):
        found[part_of(key, shares, settings.split_seed)].append(sample)
    if not found["train"]:
        raise ValueError(f"eval_share={settings.eval_share} leaves none of {len(data)} samples to train on")
    return _part(data, "train", found["train"]), _part(data, "eval", found["eval"]) if found["eval"] else None


def _part(data: MMDataset, name: str, samples: list[dict]) -> MMDataset:
    rows = sum(len(rows_of(sample)) for sample in samples)
    report = DataReport(f"{data.report.source}, part {name!r}", data.report.format, rows, len(samples))
    return MMDataset(samples, report, data.label_names, data.root)


def _told(data: RunData, settings: DataArguments) -> str:
    if data.eval is not None:
        return (
            f"held out for evaluation by a hash of the media: {len(data.eval)} of {len(data.eval) + len(data.train)}"
        )
    if not settings.eval_share:
        return "eval_share=0: nothing is held out, so the run is not evaluated"
    return (
        f"eval_share={settings.eval_share} held out none of {len(data.train)} samples, so the run is not evaluated; "
        "give a larger share, another split_seed, or eval_data"
    )


def labelled_alike(held: MMDataset, names: Sequence[str] | None, whose: str) -> MMDataset:
    """The labels of data as numbers of the classes `names`. ValueError for a class that is not among them."""
    if held.label_names is None or held.label_names == names:
        return held
    unknown = sorted(set(held.label_names) - set(names or ()))
    if unknown:
        told = f"{whose} {'has' if names else 'has no names, such as'} {', '.join((names or ['bicycle'])[:20])}"
        raise ValueError(f"the data to evaluate have the classes {', '.join(unknown)}; {told}")
    samples = []
    for sample in held.samples:
        labels = [renumbered(row.get("label"), held.label_names, names or []) for row in rows_of(sample)]
        samples.append({**sample, "label": labels if len(labels) > 1 else labels[0]})
    return MMDataset(samples, held.report, list(names or []), held.root)


def _shared(train: Any, held: MMDataset) -> Iterable[str]:
    """A line that says how many media are in both parts, where any are."""
    if isinstance(train, IterableDataset):
        return []
    both = {sample["id"] for sample in train.samples} & {sample["id"] for sample in held.samples}
    return (
        [f"{len(both)} of the media of eval_data are in the training data too: its scores are too good"]
        if both
        else []
    )
