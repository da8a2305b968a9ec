"""Packaging of MM: the repository root is the import package `mm`, so kernels/x.py is `mm.kernels.x`."""

from pathlib import Path

from setuptools import setup

FOLDERS = [
    "configuration",
    "kernels",
    "processing",
    "modeling_mm",
    "conversion_scripts",
    "exporting",
    "training",
    "evaluation",
    "cli",
]

TRAIN = ["accelerate>=1.10"]
PEFT = ["peft>=0.21"]
FAST = ["torchvision>=0.28"]
DATA = ["resvg-py>=0.5"]
EVAL = ["sacrebleu>=2.5"]
ONNX = ["onnx>=1.23", "onnxscript>=0.7.2", "onnxruntime>=1.32"]
VIDEO = ["av>=15"]
AUDIO = ["soundfile>=0.13", "soxr>=0.5"]
# CUDA builds of torch bring the Triton they were built with; this is for reading, testing and tuning the kernels.
TRITON = ["triton>=3.7.1; platform_system == 'Linux'"]

setup(
    name="mm-transformers",
    version="0.1.0",
    description="Multimodal encoder-fusion-decoder models for Hugging Face Transformers",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
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
        "peft": PEFT,
        "eval": EVAL,
        "fast": FAST,
        "examples": DATA,
        "video": VIDEO,
        "audio": AUDIO,
        "triton": TRITON,
        "onnx": ONNX,
        "quant": ["torchao>=0.18"],
        "dev": [
            *TRAIN,
            *PEFT,
            *EVAL,
            *DATA,
            *VIDEO,
            *AUDIO,
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
    package_data={"mm.checkpoints": ["mm-tiny/*"]},
    # Of the root's files these only: listing the package "mm" would ship setup.py, and `mm --help` must not import mm.
    py_modules=["mm.__init__", "mm_console"],
    entry_points={"console_scripts": ["mm = mm_console:main"]},
)
