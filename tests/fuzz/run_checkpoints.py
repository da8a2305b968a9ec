"""Loads models with a broken file: each must be the model that the file describes, or an error that names the file.

python tests/fuzz/run_checkpoints.py [--kind weights|json] --cases 10000 [--first 0]
    prints a line of figures; exits 1 with the cases that fell

Every case is read twice. Without a manifest by from_pretrained: what loads is compared with what the file says, read
here by plain json and torch.frombuffer; an error must be an OSError or ValueError, and must name the file. With a
manifest by `mm.verify`, which must find a fault and raise nothing. Cases run in a child, so that a crash or a hang
names its case too.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch  # noqa: E402
from checkpoint_mutations import (  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]
    JSON_FILES,
    WEIGHTS,
    mutated_header,
    mutated_json,
    write_seeds,
)
from tokenizers import Tokenizer  # noqa: E402
from transformers.utils import logging  # noqa: E402

import mm  # noqa: E402
from mm.training.checkpoints import read_state  # noqa: E402

PACKAGED = Path(__file__).parents[2] / "checkpoints" / "mm-tiny"
SECONDS = 60  # for one case
ADDRESS_SPACE = 16 * 2**30
TEXT = "a red square"
TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PROCESSOR_FILES = ("processor_config.json", "tokenizer.json", "tokenizer_config.json")


class Fallen(Exception):
    """A case that is neither the model of its file nor an error that names it."""


class Cases:
    """Good folders, of which each case breaks one file.

    Args:
        folder: where the good ones are made, and a broken one of each.
    """

    def __init__(self, folder: Path):
        write_seeds(folder / "good", PACKAGED)
        self.good, self.broken = folder / "good", folder / "broken"
        self.mend()
        self.weights = load(self.good / "one", WEIGHTS).state_dict()

    def mend(self) -> None:
        """Makes the broken ones good again, whatever a case that was killed left."""
        shutil.rmtree(self.broken, ignore_errors=True)
        shutil.copytree(self.good, self.broken)

    def run(self, kind: str, number: int) -> str:
        """ "loads" or the class of the error. Raises: Fallen."""
        name = WEIGHTS if kind == "weights" else JSON_FILES[number % len(JSON_FILES)]
        seed = "shards" if name == "model.safetensors.index.json" else "one"
        good, place = self.good / seed, self.broken / seed
        whole = (good / name).read_bytes()
        data = (mutated_header if kind == "weights" else mutated_json)(whole, number)
        manifest = place / "manifest.json"
        (place / name).write_bytes(data)
        try:
            self._verified(place, name, data)
            if name != "manifest.json":
                manifest.unlink()
            return self._loaded(place, name, data)
        finally:
            (place / name).write_bytes(whole)
            manifest.write_bytes((good / "manifest.json").read_bytes())

    def _verified(self, place: Path, name: str, data: bytes) -> None:
        try:
            faults = [check for check in mm.verify(place) if check.is_fault]
        except Exception as error:
            raise Fallen(f"verify raised {type(error).__name__}: {error}") from error
        is_equal = name == "manifest.json" and same_json(data, (self.good / place.name / name).read_bytes())
        if not faults and not is_equal:
            raise Fallen("verify found nothing")

    def _loaded(self, place: Path, name: str, data: bytes) -> str:
        try:
            found = load(place, name)
        except (OSError, ValueError) as error:
            if name not in str(error):
                raise Fallen(f"{type(error).__name__} does not name {name}: {error}") from error
            return "OSError" if isinstance(error, OSError) else "ValueError"
        except Exception as error:
            raise Fallen(f"{type(error).__name__}: {error}") from error
        try:
            self._compare(found, name, data)
        except Fallen:
            raise
        except Exception as error:
            raise Fallen(f"loads what cannot be read: {type(error).__name__}: {error}") from error
        return "loads"

    def _compare(self, found: Any, name: str, data: bytes) -> None:
        """Raises: Fallen if what was loaded is not what the file says; anything else if the file cannot be read."""
        told = tensors_of(data) if name == WEIGHTS else json.loads(data)
        if name == WEIGHTS:
            same_tensors(found.state_dict(), told)
        elif name in ("model.safetensors.index.json", "manifest.json"):
            same_tensors(found.state_dict(), self.weights)
        elif name == "config.json":
            same_settings(found.config.to_dict(), told)
        elif name == "generation_config.json":
            same_settings(found.generation_config.to_dict(), told)
        elif name == "processor_config.json":
            same_settings(found.to_dict(), told)
        elif name == "tokenizer_config.json":
            held = {key: getattr(found.tokenizer, key, None) for key in told if key.endswith("_token")}
            same_settings(held, told)
        elif name == "tokenizer.json":
            if ids_of(Tokenizer.from_str(data.decode()).encode, TEXT) != ids_of(
                found.tokenizer._tokenizer.encode, TEXT
            ):
                raise Fallen("the tokenizer gives other ids than its file")
        else:
            same_settings(vars(found), told)


def load(place: Path, name: str) -> Any:
    if name == "trainer_state.json":
        return read_state(place)
    if name in PROCESSOR_FILES:
        return mm.MMProcessor.from_pretrained(place)
    return mm.MMForConditionalGeneration.from_pretrained(place, dtype=torch.float32)


def ids_of(encode: Any, text: str) -> Any:
    """The ids of a text, or why there are none: a vocabulary may lack its own token for unknown words."""
    try:
        return encode(text).ids
    except Exception as error:
        return str(error)


def tensors_of(data: bytes) -> dict[str, torch.Tensor]:
    """What a file of weights says that it holds."""
    begin = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            found[name] = torch.frombuffer(bytearray(data[begin + first : begin + last]), dtype=TORCH[entry["dtype"]])
            found[name] = found[name].reshape(entry["shape"]).float()
    return found


def same_tensors(found: dict[str, torch.Tensor], told: dict[str, torch.Tensor]) -> None:
    places = {value.data_ptr(): told[name] for name, value in found.items() if name in told}
    for name in found.keys() | told.keys():
        one = found.get(name)
        other = told.get(name, None if one is None else places.get(one.data_ptr()))  # a tied one is saved once
        if one is None or other is None or one.shape != other.shape:
            raise Fallen(f"{name} is loaded as {one if one is None else one.shape}")
        if one.numpy().tobytes() != other.numpy().tobytes():
            raise Fallen(f"{name} is loaded with other numbers than its file holds")


def same_settings(found: dict[str, Any], told: Any, path: str = "") -> None:
    """Every known setting is as the file says; one that is null may have been filled in."""
    if not isinstance(told, dict):
        raise Fallen(f"{path or 'the file'} holds {type(told).__name__}, and loads")
    for key, value in told.items():
        if key not in found or value is None or key in FREE:
            continue
        held = found[key]
        if isinstance(value, dict) and isinstance(held, dict):
            same_settings(held, value, f"{path}{key}.")
        elif key == "size" and held == {"height": value, "width": value}:
            continue  # as Transformers reads one number
        elif json.dumps(held, default=str) != json.dumps(value) and held != value:
            raise Fallen(f"{path}{key} is {value!r} in the file and {held!r} in what is loaded")


# Written by a save, about itself.
FREE = {"transformers_version", "auto_map", "architectures", "_name_or_path", "processor_class"}


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except (ValueError, RecursionError):
        return False


def child(cases: Cases, kind: str, first: int, last: int, writer: int) -> None:
    """Runs cases, and writes a line for each: its number before, its result after."""
    cases.mend()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nobody answers a question
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with os.fdopen(writer, "w", buffering=1) as told:
        for number in range(first, last):
            told.write(f"{number}\t")
            signal.alarm(SECONDS)  # ends the child
            try:
                result = cases.run(kind, number)
            except Fallen as fault:
                result = "FELL " + " ".join(str(fault).split())[:300]
                if os.environ.get("TRACE"):
                    traceback.print_exc()
            signal.alarm(0)
            told.write(result + "\n")


def in_a_child(cases: Cases, kind: str, first: int, last: int) -> list[tuple[int, str]]:
    """The results of cases; the first one that kills the child ends the list."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(reader)
        try:
            child(cases, kind, first, last, writer)
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as told:
        lines = told.read().splitlines()
    _, status = os.waitpid(process, 0)
    found = [(int(number), result) for number, _, result in (line.partition("\t") for line in lines)]
    if status and found:
        signals = {signal.SIGALRM: f"FELL hangs for {SECONDS} seconds"}
        found[-1] = (found[-1][0], signals.get(os.WTERMSIG(status), f"FELL ended with status {status}"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", choices=("weights", "json"), default="weights")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity(logging.CRITICAL)
    logging.get_logger("mm").setLevel(logging.CRITICAL)
    logging.disable_progress_bar()
    results: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        cases, number, last = Cases(Path(folder)), arguments.first, arguments.first + arguments.cases
        while number < last:
            for case, result in in_a_child(cases, arguments.kind, number, min(number + 500, last)):
                number = case + 1
                results[result.split(" ")[0]] += 1
                if result.startswith("FELL"):
                    name = WEIGHTS if arguments.kind == "weights" else JSON_FILES[case % len(JSON_FILES)]
                    print(f"case {case} ({name}): {result[5:]}", flush=True)
            print(f"{number - arguments.first} of {arguments.cases}", file=sys.stderr, flush=True)
    figures = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
    print(f"{sum(results.values())} cases of {arguments.kind}: {figures}")
    return 1 if results["FELL"] else 0


if __name__ == "__main__":
    sys.exit(main())
