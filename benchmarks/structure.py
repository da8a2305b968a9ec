"""How far the code is from one page per journey: counts that a refactoring should bring down.

    python benchmarks/structure.py            (make structure)
    python benchmarks/structure.py --trace    the functions of ours that one forward enters, in their order

Runs one forward and one processor call on the CPU and reads the sources; no timing, so any machine gives the same.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import mm

ROOT = Path(__file__).resolve().parents[1]
MODEL_FOLDERS = ("modeling_mm", "weights")
MEDIA_INPUTS = {"pixel_values", "pixel_values_videos"}  # stand for the whole list; a method of one kind names one
READ_FIRST = ("MMModel", "MMTextModel", "MMSelfAttention", "MMCrossAttention")
PYRIGHT = re.compile(r"^# pyright: (.*)$", re.MULTILINE)


def tiny() -> Any:
    vision = {"hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": 30, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = mm.MMConfig(vision_config={**vision, "image_size": 16, "patch_size": 8}, text_config={**text, **ids})
    return mm.MMForConditionalGeneration(config).eval()


def ours(code: Any) -> Path | None:
    """The file of a code object where it is one of the package's, relative to the root."""
    path = Path(code.co_filename)
    is_ours = (
        path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / ".venv") and path.name != Path(__file__).name
    )
    return path.relative_to(ROOT) if is_ours else None


def entered(run: Callable[[], object]) -> list[tuple[Path, str, int]]:
    """(file, function, how many of our frames are open, itself included) of every call of ours that `run` makes."""
    calls, depth = [], 0

    def watch(frame, event, _):
        nonlocal depth
        path = ours(frame.f_code)
        if path is None or frame.f_code.co_name.startswith("<"):  # comprehensions are their function's
            return
        if event == "call":
            depth += 1
            calls.append((path, f"{frame.f_code.co_qualname}:{frame.f_code.co_firstlineno}", depth))
        elif event == "return":
            depth -= 1

    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


def calls_of_a_forward() -> list[tuple[Path, str, int]]:
    """As `entered`, of a captioner that reads a picture and three tokens."""
    model, ids, pixels = tiny(), torch.tensor([[1, 5, 6]]), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        return entered(lambda: model(input_ids=ids, pixel_values=pixels))


def one_forward() -> tuple[int, int, int]:
    """(files, functions, our frames between the model's forward and the tower's)."""
    calls = calls_of_a_forward()
    above = next(depth for _, name, depth in calls if name.startswith("MMVisionModel.forward"))
    head = next(depth for _, name, depth in calls if name.startswith("MMForConditionalGeneration.forward"))
    return len({path for path, _, _ in calls}), len({(path, name) for path, name, _ in calls}), above - head - 1


def print_trace() -> None:
    """Each function where it is first entered, below those that led to it."""
    stack, shown, seen = [], [], set()
    for path, name, depth in calls_of_a_forward():
        stack[depth - 1 :] = [(path, *name.rsplit(":", 1))]
        if stack[-1] not in seen:
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(stack, shown, strict=False)))
            for place in range(same, depth):
                path, function, line = stack[place]
                print(f"{'    ' * place}{function}  {path}:{line}")
            shown = list(stack)
        seen.add(stack[-1])


def loads_per_picture() -> float:
    processor = mm.MMProcessor.from_pretrained(ROOT / "checkpoints" / "mm-tiny")
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    calls = entered(lambda: processor(images=pictures, text=["a", "b"]))
    return sum(name.split(":")[0] == "load_image" for _, name, _ in calls) / len(pictures)


def sources(*folders: str) -> Iterator[tuple[Path, str]]:
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        top = relative.parts[0]
        if not top.startswith(".") and top not in {"build", "dist", "runs"} and (not folders or top in folders):
            yield relative, path.read_text(encoding="utf-8")


LOADED = """
import sys, types
package = types.ModuleType("mm")  # without the front door, which imports every head
package.__path__ = [sys.argv[1]]
sys.modules["mm"] = package
__import__(sys.argv[2])
files = [name for name, module in sys.modules.items() if name.startswith("mm.") and module.__file__]  # no folders
print(sum(name.split(".")[1] in sys.argv[3:] for name in files))
"""


def files_loaded(module: str) -> int:
    """How many files of the model Python loads for one of its modules, itself included; in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", LOADED, str(ROOT), module, *MODEL_FOLDERS]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def media_inputs_written() -> tuple[int, int, int]:
    """In (signatures, dicts, tuples or lists of names) of the model's files."""
    signatures = dicts = names = 0
    for _, text in sources(*MODEL_FOLDERS):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                signatures += {a.arg for a in [*node.args.args, *node.args.kwonlyargs]} >= MEDIA_INPUTS
            elif isinstance(node, ast.ClassDef):  # a TypedDict or a dataclass of them
                fields = [one.target for one in node.body if isinstance(one, ast.AnnAssign)]
                signatures += {one.id for one in fields if isinstance(one, ast.Name)} >= MEDIA_INPUTS
            elif isinstance(node, ast.Dict):
                dicts += {key.value for key in node.keys if isinstance(key, ast.Constant)} >= MEDIA_INPUTS
            elif isinstance(node, ast.Tuple | ast.List):
                names += {one.value for one in node.elts if isinstance(one, ast.Constant)} >= MEDIA_INPUTS
    return signatures, dicts, names


def pyright_switches() -> tuple[int, int]:
    """(rules switched off in the heads of files, those among them in kernels/ and its tests)."""
    counts = {path: sum(setting.count("=") for setting in PYRIGHT.findall(text)) for path, text in sources()}
    return sum(counts.values()), sum(count for path, count in counts.items() if "kernels" in path.parts)


def branches() -> dict[str, int]:
    """How many ifs, conditional expressions included, the forwards have that a reader meets first."""
    found = {}
    for _, text in sources("modeling_mm"):
        classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name in READ_FIRST]
        for one in classes:
            forward = next(node for node in one.body if isinstance(node, ast.FunctionDef) and node.name == "forward")
            found[one.name] = sum(isinstance(node, ast.If | ast.IfExp) for node in ast.walk(forward))
    return found


def lines() -> int:
    return sum(len(text.splitlines()) for _, text in sources(*MODEL_FOLDERS))


def main() -> None:
    if "--trace" in sys.argv[1:]:
        print_trace()
        return
    files, functions, frames = one_forward()
    signatures, dicts, names = media_inputs_written()
    switches, in_kernels = pyright_switches()
    rows = {
        "own files / functions entered by one forward": f"{files} / {functions}",
        "own frames between the model's forward and the tower's": frames,
        "files of the model that masked_lm loads": files_loaded("mm.modeling_mm.tasks.masked_lm"),
        "media inputs written, in signatures + dicts + name lists": f"{signatures} + {dicts} + {names}",
        "load_image calls per picture": f"{loads_per_picture():g}",
        "pyright switches in file heads (of them in kernels)": f"{switches} ({in_kernels})",
        "branches of a forward, the most of " + ", ".join(READ_FIRST): max(branches().values()),
        "lines of modeling_mm and weights": lines(),
    }
    for name, value in rows.items():
        print(f"{name:100}{value}")


if __name__ == "__main__":
    main()
