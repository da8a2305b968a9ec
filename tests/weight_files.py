"""Where the weights in a file begin, as chosen by the tests.

Weights are used where they lie in the mapped file, behind a header of any multiple of 8 bytes, so half of all files
begin at an address that is no multiple of 16, and there MKL gives other last bits on some CPUs. What the tests save
begins at 8 modulo 16 throughout; `data_begins` and `pytest --weights-at` say otherwise.
"""

from pathlib import Path

import safetensors
import safetensors.torch

REMAINDER = 8
_serialize_file = safetensors.serialize_file


def begin_data_at(path: Path, remainder: int) -> None:
    """Pads the header of a safetensors file with spaces, so that its data begin at `remainder` modulo 16."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size].rstrip(b" "), content[8 + size :]
    header += b" " * ((remainder - 8 - len(header)) % 16)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def install(remainder: int | None) -> None:
    """From now on for every file that this process saves."""
    global REMAINDER
    REMAINDER = REMAINDER if remainder is None else remainder

    def serialize_file(tensors, filename, metadata=None):
        _serialize_file(tensors, filename, metadata=metadata)
        begin_data_at(Path(filename), REMAINDER)

    safetensors.torch.__dict__["serialize_file"] = serialize_file  # which its save_file calls
