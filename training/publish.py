"""mm push: a saved model with its processor, its code and its card to the Hub, in one commit.

folder ─ verify ─► a copy beside it: + code, card, manifest ─► compared with the repository ─► one commit ─► tag
"""

import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, get_token, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import AutoConfig, AutoProcessor
from transformers.utils import logging

from ..configuration.auto_map import FRONT, SHIM, finish_config, finish_processor
from ..configuration.hub_files import MODEL_SETTINGS, PROCESSOR_FILES
from ..exporting.hub import write_code
from ..weights import manifest
from ..weights.files import ADAPTER, listed, stale_patterns
from ..weights.upload import Held, files_below, held, upload
from .bare_card import bare_card
from .card_snippet import REPOSITORY
from .verify import PROCESSOR, verify, write_manifest

logger = logging.get_logger(__name__)

CARD = "README.md"
# Of a training, not of a model; pickles can run code, and training_args.bin may hold a token.
_TRAINING = r"trainer_state\.json|global_step.*|last-checkpoint|.*\.(bin|pt|pth|pkl|pickle|ckpt)"
# They hold texts and small pictures of the data.
_PAGES = r"(report|evaluation|audit)\.html|answers\.\d+\.jsonl"
_PAGES = r"(report|evaluation|audit)\.html|answers\.\d+\.jsonl"
_DATA = rf"{_PAGES}|predictions\.jsonl|bad_samples\.jsonl|samples\.png|README\.new\.md"
_NOT_PUSHED = re.compile(rf"\..*|_.*|checkpoint-\d+|{_TRAINING}|{_DATA}")
_WEIGHTS = (".safetensors", ".onnx", ".data")  # linked into the copy; everything else is small and copied


@dataclass(frozen=True)
class Push:
    """What a push does, or did: files to upload with their sizes, files to delete, files that are not uploaded."""

    repository: str
    uploads: dict[str, int]
    deletes: list[str]
    left_out: list[str]
    card: str  # what becomes of the card, in words
    is_new: bool  # the repository is made
    url: str | None = None  # of the commit, or of the pull request; None: nothing was pushed
    is_unchanged: bool = False  # the repository held all of it: no commit, no pull request

    def lines(self) -> list[str]:
        """The list that `mm push` prints."""
        made = " (a new repository, or one that this token does not see)" if self.is_new and self.url is None else ""
        found = [f"{self.repository}{made}: {CARD} {self.card}"]
        found += [f"upload  {name}  {size:,} bytes" for name, size in self.uploads.items()]
        found += [f"delete  {name}" for name in self.deletes]
        found += [f"leave   {name}" for name in self.left_out]
        return found


def push_to_hub(
    folder: str | os.PathLike,
    repository: str,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    private: bool | None = None,
    commit_message: str = "Upload model",
    token: str | None = None,
    code: bool = True,
    replace_card: bool = False,
    dry_run: bool = False,
) -> Push:
    """Pushes a saved model, with all that belongs to it, to a repository of the Hub in one commit.

    The folder itself is not changed. Files that an earlier push wrote and this one does not are deleted in the same
    commit; other files of the repository stay. Training state and pickles are not pushed.

    Args:
        folder: of save_pretrained, `mm train` or MMTrainer, with or without a processor.
        repository: "name/model", made if there is none.
        revision: the branch, made if there is none. None: main.
        create_pr: propose the change as a pull request.
        tag: a name for the new commit.
        private: of a new repository.
        token: None takes that of `hf auth login` or HF_TOKEN.
        code: the model loads where MM is not installed, with trust_remote_code=True; False: it needs `import mm`.
        replace_card: overwrite a README.md that was edited on the Hub. Without it such a card stays as it is.
        dry_run: say what would be done, and change nothing.

    Raises:
        ValueError: the folder has faults (those of `mm verify`), holds the token, or the tag exists.
        OSError: what the Hub answered.
    """
    folder = Path(folder)
    if tag is not None and create_pr:
        raise ValueError(f"tag={tag!r} with create_pr=True: tag the commit when the pull request is merged")
    _check(folder)
    api = HfApi(token=token)
    known = known_of(api, repository, revision)
    if tag is not None and known is not None and tag in {one.name for one in api.list_repo_refs(repository).tags}:
        raise ValueError(f"{repository!r} has a tag {tag!r}; give another name, or delete it: HfApi().delete_tag")
    with TemporaryDirectory() as place:
        copy = Path(place) / "model"
        left_out = copied(folder, copy)
        finish(copy, repository, code=code)
        if not (copy / manifest.FORWARD).is_file():
            write_manifest(copy)
        plan = planned(api, copy, repository, known, left_out, replace_card=replace_card)
        if dry_run:
            return plan
        made = (
            str(api.create_repo(repository, private=private, exist_ok=True).repo_id) if known is None else repository
        )
        commit = upload(
            made,
            files_below(copy, sorted(os.listdir(copy))),
            lambda name: name in plan.deletes,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
        )
    if tag is not None:
        api.create_tag(made, tag=tag, revision=commit.oid)
    is_unchanged = known is not None and commit.oid == known.commit
    return replace(plan, repository=made, url=str(commit.pr_url or commit.commit_url), is_unchanged=is_unchanged)


def push_of_training(
    folder: Path,
    repository: str,
    *,
    token: str | None,
    revision: str | None,
    commit_message: str,
    checkpoint: str | None = None,
) -> Any:
    """What MMTrainer pushes, to a repository that exists; returns huggingface_hub's CommitInfo.

    checkpoint: a folder in the repository for all files of `folder`, to resume from; it then holds nothing else.
    """
    api = HfApi(token=token)
    with TemporaryDirectory() as place:
        copy = Path(place) / "model"
        copied(folder, copy)
        finish(copy, repository)
        plan = planned(api, copy, repository, held(api, repository, revision), [])
        files = files_below(copy, sorted(os.listdir(copy)))
        if checkpoint is not None:
            whole = files_below(folder, sorted(os.listdir(folder)))
            files |= {f"{checkpoint}/{name}": path for name, path in whole.items()}
        if CARD in plan.uploads and "edited" in plan.card:
            logger.warning(f"{repository}: {CARD} {plan.card}")
        return upload(
            repository,
            files,
            lambda name: name in plan.deletes or (checkpoint is not None and name.startswith(f"{checkpoint}/")),
            token=token,
            revision=revision,
            commit_message=commit_message,
        )


# ---- the copy ------------------------------------------------------------------------------------------------------


def copied(folder: Path, copy: Path) -> list[str]:
    """Copies what of a folder belongs to the model (weights are linked); returns the names that are not copied."""
    copy.mkdir(parents=True)
    names = sorted(os.listdir(folder))
    left_out = [name for name in names if _NOT_PUSHED.fullmatch(name)]
    for name, path in files_below(folder, [name for name in names if name not in left_out]).items():
        if any(_NOT_PUSHED.fullmatch(part) for part in Path(name).parts):
            left_out.append(name)
            continue
        place = copy / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix in _WEIGHTS:
            place.symlink_to(path.resolve())
        else:
            shutil.copyfile(path, place)
    return left_out


def finish(copy: Path, repository: str, *, code: bool = True) -> None:
    """Gives the copy of a whole model its code, and a card if it has none."""
    if not (copy / "config.json").is_file():  # an adapter
        return
    config = AutoConfig.from_pretrained(copy)
    front = FRONT if code else SHIM
    finish_config(copy, config, front)
    has_processor = (copy / "processor_config.json").is_file()
    if has_processor:
        finish_processor(copy, AutoProcessor.from_pretrained(copy), front)
    if code:
        write_code(copy)
        (copy / f"{SHIM}.py").unlink(missing_ok=True)
    card = copy / CARD
    if card.is_file():  # that of a run did not know where it would be pushed
        card.write_bytes(card.read_bytes().replace(f'"{REPOSITORY}"'.encode(), f'"{repository}"'.encode()))
    else:
        card.write_text(bare_card(repository, config, has_processor, code), encoding="utf-8")


def _check(folder: Path) -> None:
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{str(folder)!r} holds an adapter: push it with PeftModel's push_to_hub, or save what "
            "merge_and_unload() gives and push that"
        )
    faults = [f"{check.name}: {check.told}" for check in verify(folder) if check.is_fault]
    if faults:
        raise ValueError(f"{str(folder)!r} is not pushed, it has faults (mm verify):{listed(faults)}")


def _check_no_token(copy: Path, token: str | None) -> None:
    """Raises ValueError for a text file that holds the token, without showing it."""
    for name, path in files_below(copy, sorted(os.listdir(copy))).items():
        if token and path.suffix not in _WEIGHTS and token.encode() in path.read_bytes():
            raise ValueError(f"{name} holds the token of the Hub that is in use; take it out before the push")


# ---- the repository ------------------------------------------------------------------------------------------------


def known_of(api: HfApi, repository: str, revision: str | None) -> Held | None:
    """What the repository holds; None: there is none yet."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"repository={repository!r}: accepted is a Hub id, such as 'you/mine'")
    try:
        return held(api, repository, revision)
    except RepositoryNotFoundError:
        return None


def planned(
    api: HfApi, copy: Path, repository: str, known: Held | None, left_out: list[str], *, replace_card: bool = False
) -> Push:
    """What pushing the copy does. Its card becomes the one that is to stay, and its manifest is written."""
    _check_no_token(copy, api.token if isinstance(api.token, str) else get_token())
    there = known or Held(None, frozenset())
    earlier = _read(api, repository, manifest.NAME, there)
    try:
        pushed = dict(json.loads(earlier.read_bytes())["files"]) if earlier is not None else {}
    except (ValueError, KeyError, TypeError):  # not ours
        pushed = {}
    card = _card(copy, _read(api, repository, CARD, there), pushed.get(CARD), replace_card)
    manifest.write(copy)
    files = files_below(copy, sorted(os.listdir(copy)))
    stale = _stale(there, files, set(pushed))
    sizes = {name: path.stat().st_size for name, path in files.items()}
    return Push(repository, sizes, stale, left_out, card, known is None)


def _read(api: HfApi, repository: str, name: str, there: Held) -> Path | None:
    """A file as the repository has it."""
    if name not in there.names:
        return None
    return Path(hf_hub_download(repository, name, revision=there.commit, token=api.token))


def _card(copy: Path, theirs: Path | None, pushed: Any, replace_card: bool) -> str:
    """Decides which card is pushed, and says so. One that was edited on the Hub since the last push stays."""
    own = copy / CARD
    if theirs is None:
        return "is new" if own.is_file() else "is not written"
    if not own.is_file() or theirs.read_bytes() == own.read_bytes():
        return "stays as it is"
    if replace_card:
        return "replaces the one on the Hub"
    if isinstance(pushed, dict) and pushed.get("sha256") == manifest.sha256(theirs):
        return "replaces the one of the last push"
    shutil.copyfile(theirs, own)
    return "stays as it is on the Hub, where it was edited (replace_card=True, --replace-card: overwrite it)"


def _stale(there: Held, files: dict[str, Path], pushed: set[str]) -> list[str]:
    """The files in the repository that a push replaces: other weights, and what only an earlier push wrote."""
    patterns = [stale_patterns(files, ADAPTER in files)]
    if "config.json" in files:
        patterns += [MODEL_SETTINGS, rf"({SHIM}|{FRONT})\.py"]
    if any(name in files for name in PROCESSOR):
        patterns.append(PROCESSOR_FILES)
    old = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    gone = (name for name in there.names - set(files) if name in pushed or old.fullmatch(name))
    return sorted(name for name in gone if name not in (CARD, manifest.NAME, ".gitattributes"))
