"""Towers that stay Transformers' own class inside an MM model: every tensor under its own name."""

import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.initialization import no_init_weights

from ..configuration.towers import tower_model
from ..weights.key_table import KeyTable
from ..weights.text_names import BUFFER

_LEAVES = ("weight", "bias")
# What older files of a Swin or BEiT also hold: numbers that its class computes from its window.
_COMPUTED = "relative_position_index"


def kept_tower(config: PreTrainedConfig) -> KeyTable:
    """The table of a tower with this config. Its names are those of files, which may be older than the class's."""
    with torch.device("meta"), no_init_weights():
        model = tower_model(config)
    tower = model.get_encoder() if config.is_encoder_decoder else model
    names = revert_weight_conversion(tower, tower.state_dict())
    ends = {name.rpartition(".")[2] for name in names} - {*_LEAVES}
    alone = {name: name for name in names if "." not in name}
    tensors = alone | {f"{{rest}}.{end}": f"{{rest}}.{end}" for end in sorted(ends)}
    if "original0" in ends:  # a weight norm, after the names of these files
        tensors |= {
            f"{{rest}}.weight_{old}": f"{{rest}}.parametrizations.weight.original{n}" for n, old in enumerate("gv")
        }
    dropped = {} if _COMPUTED in ends else {f"{{rest}}.{_COMPUTED}": BUFFER}
    return KeyTable(modules={"{rest}": "{rest}"}, tensors=tensors, dropped=dropped)
