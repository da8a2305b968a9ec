"""Packaging of MM: the repository root is the import package `mm`, so kernels/x.py is `mm.kernels.x`."""

import re
import subprocess
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent

FOLDERS = [
    "configuration",
    "configuration.checks",
    "weights",
    "kernels",
    "processing",
    "processing.images",
    "processing.videos",
    "processing.sounds",
    "modeling_mm",
    "modeling_mm.core",
    "modeling_mm.losses",
    "modeling_mm.towers",
    "modeling_mm.fusion",
    "modeling_mm.tasks",
    "conversion_scripts",
    "explaining",
    "exporting",
    "evaluation",
    "data",
    "searching",
    "serving",
    "demo",
    "training",
    "cli",
    "cli.commands",
]

EXPLAIN = ["matplotlib>=3.10"]
TRAIN = ["accelerate>=1.10", *EXPLAIN]
PEFT = ["peft>=0.21"]
DPO = ["trl>=1.16"]
FAST = ["torchvision>=0.28"]
EXAMPLES = ["resvg-py>=0.5"]
DATA = ["datasets>=5.2"]  # Parquet comes with it
DICOM = ["pydicom>=3.0"]
EVAL = ["sacrebleu>=2.5", "jiwer>=4.0", "snowballstemmer>=3.0"]
ONNX = ["onnx>=1.23", "onnxscript>=0.7.2", "onnxruntime>=1.32"]
VIDEO = ["av>=15"]
AUDIO = ["soundfile>=0.13", "soxr>=0.5"]
INDEX = ["usearch>=2.20"]
SENTENCE = ["sentence-transformers>=6.2"]
RAY = ["ray[data]>=2.60"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.8", "mkdocstrings[python]>=1.0"]
DEMO = ["gradio>=6.30", "fastapi>=0.160", "uvicorn>=0.50"]
SERVE = ["fastapi>=0.160", "uvicorn>=0.50", "python-multipart>=0.0.30", "prometheus-client>=0.24"]
# CUDA builds of torch bring the Triton they were built with; this is for reading, testing and tuning the kernels.
TRITON = ["triton>=3.7.1; platform_system == 'Linux'"]


def home() -> str | None:
    """Where the repository lives, as the clone says that is built from, or the sdist that was built from one."""
    if (ROOT / "PKG-INFO").exists():
        found = re.search(r"^Project-URL: Source, (.+)$", (ROOT / "PKG-INFO").read_text(encoding="utf-8"), re.M)
        return found and found[1]
    try:
        asked = ["git", "-C", str(ROOT), "config", "--local", "--get", "remote.origin.url"]
        told = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        return None
    found = re.fullmatch(r"(?:https://|ssh://git@|git@)(?:[^@/]*@)?([^/:]+)[:/](.+?)(?:\.git)?/?", told)
    return found and f"https://{found[1]}/{found[2]}"


HOME = home()
PAGES = {"Source": "", "Documentation": "/tree/main/docs", "Issues": "/issues", "Changelog": "/blob/main/CHANGELOG.md"}

setup(
    name="mm-transformers",
    version="0.1.0",
    description="Multimodal encoder-fusion-decoder models for Hugging Face Transformers",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    project_urls={name: HOME + page for name, page in PAGES.items()} if HOME else {},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    keywords="multimodal vision-language captioning vqa retrieval transformers pytorch",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.13",
        # generate()'s private hooks are overridden, so the range is what was run and nothing more
        "transformers>=5.23,<5.24",
        "huggingface-hub",
        "tokenizers",
        "safetensors",
        "numpy",
        "Pillow>=12.3",
        "typer",
        "tqdm",
    ],
    extras_require={
        "train": TRAIN,
        "explain": EXPLAIN,
        "peft": PEFT,
        "dpo": DPO,
        "eval": EVAL,
        "fast": FAST,
        "examples": EXAMPLES,
        "data": DATA,
        "dicom": DICOM,
        "video": VIDEO,
        "audio": AUDIO,
        "index": INDEX,
        "sentence": SENTENCE,
        "serve": SERVE,
        "demo": DEMO,
        "ray": RAY,
        "docs": DOCS,
        "triton": TRITON,
        "onnx": ONNX,
        "quant": ["torchao>=0.18"],
        "dev": [
            *TRAIN,
            *PEFT,
            *DPO,
            *EVAL,
            *EXAMPLES,
            *DATA,
            *DICOM,
            "webdataset>=1.0",  # writes the shards that tests read
            *VIDEO,
            *AUDIO,
            *SERVE,  # for its types; its tests are run by make test-apps
            *TRITON,
            *ONNX,
            "parameterized",  # by the tests of Transformers, which tests/conformance runs
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "sentencepiece",
            "ruff",
            "basedpyright",
            "build",
            "setuptools>=77",
        ],
    },
    package_dir={"mm": ".", "": "."},
    packages=[f"mm.{folder}" for folder in FOLDERS] + ["mm.checkpoints"],
    package_data={"mm.checkpoints": ["mm-tiny/*"], "mm.training": ["recipes/*.yaml"]},
    # Of the root's files these only: listing the package "mm" would ship setup.py, and `mm --help` must not import mm.
    py_modules=["mm.__init__", "mm.losses", "mm.metrics", "mm_console"],
    entry_points={"console_scripts": ["mm = mm_console:main"]},
)
