"""Flamingo (Alayrac et al. 2022, arXiv:2204.14198): gated [cross, mlp] layers in an existing decoder.

    decoder   0  1  2  3  4  5  6  7            every=4: before every fourth layer, as OpenFlamingo does
    here      0  1  2 [3] 4  5  6  7 [8] 9      [ ]: a new layer; its gates are closed, so the decoder's output does
    not change

OpenFlamingo's files hold its trained weights: the resampler, these layers and the embeddings with new rows for its
special tokens. Tensors of the decoder in such a file (inside the layers' wrappers) replace the tower's. Its ViT
returns every patch after the last norm, and no class token.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from .checkpoint import Checkpoint
from .config_table import TowerPlan, prefix_of
from .key_table import Change, KeyTable, change, raise_faults
from .reshapes import List, Reshape, lead, split

_HEAD_WIDTH = 64  # of every attention in OpenFlamingo
_HEAD = "lm_head.weight"
_LAYER = re.compile(r"(lang_encoder\..+)\.(\d+)\.gated_cross_attn_layer\.attn_gate")
_LIST = re.compile(r"(lang_encoder\.gated_cross_attn_layers)\.(\d+)\.attn_gate")

BLOCK = KeyTable(
    modules={"attn.norm": "cross_attn_norm", "ff.0": "mlp_norm"},
    tensors={
        "attn_gate": "cross_attn_gate",
        "attn.to_q.weight": "cross_attn.q_proj.weight",
        "attn.to_kv.weight": change("cross_attn.k_proj.weight", "cross_attn.v_proj.weight", by=split(2)),
        "attn.to_out.weight": "cross_attn.o_proj.weight",
        "ff_gate": "mlp_gate",
        "ff.1.weight": "mlp.up_proj.weight",
        "ff.3.weight": "mlp.down_proj.weight",
    },
)
_PERCEIVER_LAYER = KeyTable(
    modules={"0.norm_media": "cross_attn.memory_norm", "0.norm_latents": "cross_attn_norm", "1.0": "mlp_norm"},
    tensors={
        "0.to_q.weight": "cross_attn.q_proj.weight",
        "0.to_kv.weight": change("cross_attn.k_proj.weight", "cross_attn.v_proj.weight", by=split(2)),
        "0.to_out.weight": "cross_attn.o_proj.weight",
        "1.1.weight": "mlp.up_proj.weight",
        "1.3.weight": "mlp.down_proj.weight",
    },
)
PERCEIVER = KeyTable(
    modules={"norm": "norm"}, tensors={"latents": change("latents", by=lead(-1))}
) + _PERCEIVER_LAYER.under("layers.{n}.", "layers.{n}.")


class Insertion:
    """Where `layers` of a decoder and the new ones between them are: one before every `every`-th.

    Raises: ValueError where no layer is put in.
    """

    def __init__(self, layers: int, every: int):
        if not 0 < every <= layers:
            raise ValueError(f"cross_attention_every={every} puts no layer into {layers}; accepted: 1..{layers}")
        self.before = [layer for layer in range(layers) if (layer + 1) % every == 0]  # numbers of the decoder's own
        self.new = [layer + count for count, layer in enumerate(self.before)]
        self.total = layers + len(self.new)
        self.places = [number for number in range(self.total) if number not in self.new]

    def settings(self, width: int, heads: int = 8) -> dict[str, Any]:
        """Of the text config, as OpenFlamingo builds its layers."""
        overrides = {
            "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": _HEAD_WIDTH,
            "attention_bias": False, "norm_type": "layer_norm", "layer_norm_eps": 1e-5, "hidden_act": "gelu",
            "gated_mlp": False, "intermediate_size": 4 * width, "mlp_bias": False,
        }  # fmt: skip
        return {
            "num_hidden_layers": self.total, "cross_attention_layers": self.new, "cross_attention_gate": "tanh",
            "cross_attention_placement": "own", "cross_attention_overrides": overrides,
        }  # fmt: skip

    def table(self, table: KeyTable) -> KeyTable:
        """A decoder's table with its layers at their new numbers, and the new layers as new."""
        moved = {}
        for part in ("modules", "tensors"):
            moved[part] = {}
            for old, target in getattr(table, part).items():
                for layer, place in enumerate(self.places) if "{n}" in old else [(0, 0)]:
                    moved[part][old.replace("{n}", str(layer))] = _numbered(target, layer, place)
        new = {f"layers.{number}.{{rest}}": "put into the decoder" for number in self.new}
        return replace(table, **moved).adding(new=new)


def _numbered(target: str | Change, layer: int, place: int) -> str | Change:
    """One layer's entry of a table."""
    if isinstance(target, str):
        return target.replace("{n}", str(place))
    new = tuple(name.replace("{n}", str(place)) for name in target.new)
    return Change(new, target.reshape, tuple(name.replace("{n}", str(layer)) for name in target.old))


_OF_WORDS = ("lm_head.weight", "lm_head.bias")  # of a head, what has a row for each word


def inserted(plan: TowerPlan, every: int, weights: "FlamingoWeights | None" = None) -> TowerPlan:
    """A decoder's plan with gated layers between its own; `weights` say how many heads and how many words."""
    if not plan.settings["is_causal"]:
        raise ValueError("cross_attention_every inserts layers into a decoder, but this text is an encoder")
    insertion = Insertion(plan.settings["num_hidden_layers"], every)
    table, width = insertion.table(plan.table), plan.settings["hidden_size"]
    if weights is None:
        return replace(plan, settings=plan.settings | insertion.settings(width), table=table)
    settings = plan.settings | insertion.settings(width, weights.heads())
    settings["cross_attention_hidden_size"] = weights.resampler()["hidden_size"]
    embeddings = weights.embeddings()
    rows = plan.settings["vocab_size"] if embeddings is None else len(embeddings)
    return with_rows(replace(plan, settings=settings, table=table), rows)


def with_rows(plan: TowerPlan, rows: int) -> TowerPlan:
    """A decoder's plan with that many words, the new ones after its own."""
    grow, table, head = grown(rows), plan.table, plan.head
    modules = {old: change("embed_tokens", by=grow) for old, new in table.modules.items() if new == "embed_tokens"}
    tensors = {old: change(str(new), by=grow) for old, new in head.tensors.items() if new in _OF_WORDS}
    return replace(
        plan,
        settings={**plan.settings, "vocab_size": rows},
        table=table.adding(modules=modules),
        head=head.adding(tensors=tensors),
    )


class Names(NamedTuple):
    """What a decoder's tensors are called in its own checkpoint and inside an OpenFlamingo."""

    own: str  # their prefix in the file
    root: str  # and here
    layers: str  # its list of layers
    embeddings: str

    @classmethod
    def of(cls, checkpoint: Iterable[str]) -> "Names":
        """Of a decoder's checkpoint: GPT-2's, or one that is called as Llama's is."""
        names = list(checkpoint)
        is_gpt2 = any(name.endswith("wte.weight") for name in names)
        root, layers, embeddings = ("transformer.", "h", "wte") if is_gpt2 else ("model.", "layers", "embed_tokens")
        embeddings = f"{embeddings}.weight"
        return cls(prefix_of(names, embeddings), f"lang_encoder.{root}", layers, embeddings)

    def inside(self, name: str) -> str:
        """The name of the decoder's own tensor here: in the wrapper of its layer, which also holds the gated one."""
        if not name.startswith(self.own) or name.startswith("lm_head."):
            return f"lang_encoder.{name}"
        rest = re.sub(rf"^{self.layers}\.(\d+)\.", rf"{self.layers}.\1.decoder_layer.", name.removeprefix(self.own))
        return self.root + rest

    def gated(self, layer: int) -> str:
        """The prefix of the tensors of the gated layer before the decoder's `layer`."""
        return f"{self.root}{self.layers}.{layer}.gated_cross_attn_layer."


class Overlaid(Mapping[str, torch.Tensor]):
    """A decoder's tensors, those of a file of OpenFlamingo before its own; its embeddings, which grow, apart."""

    def __init__(self, tower: Checkpoint, file: Mapping[str, torch.Tensor]):
        self.tower, self.file, names = tower, file, Names.of(tower)
        self.inside = {name: names.inside(name) for name in (*tower, _HEAD) if not name.endswith(names.embeddings)}
        head, embeddings = file.get(self.inside[_HEAD]), file.get(names.inside(names.own + names.embeddings))
        if head is None or (embeddings is not None and torch.equal(head, embeddings)):  # it has none, or it is tied
            del self.inside[_HEAD]
        self.names = dict.fromkeys((*tower, *(name for name in (_HEAD,) if name in self.inside)))

    def __getitem__(self, name: str) -> torch.Tensor:
        inside = self.inside.get(name, "")
        return self.file[inside] if inside in self.file else self.tower[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def dtype(self) -> torch.dtype:
        return self.tower.dtype()


class FlamingoWeights:
    """A file of OpenFlamingo, or its tensors: their sizes, and themselves under MM's names."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        hits = [_LAYER.fullmatch(name) for name in checkpoint]
        self._ending = ".gated_cross_attn_layer."
        if not any(hits):
            hits, self._ending = [_LIST.fullmatch(name) for name in checkpoint], "."
        found = [hit for hit in hits if hit is not None]
        if not found or "perceiver.latents" not in checkpoint:
            raise ValueError(f"{checkpoint.source} is no OpenFlamingo: it has no perceiver.latents or no gated layer")
        self._stack = found[0][1]
        self.before = sorted({int(hit[2]) for hit in found})
        self.every = self.before[0] + 1

    def heads(self) -> int:
        """Of the gated layers."""
        first = f"{self._stack}.{self.before[0]}{self._ending}attn.to_q.weight"
        return self.checkpoint.shape(first)[0] // _HEAD_WIDTH

    def resampler(self) -> dict[str, Any]:
        """Settings of the resampler."""
        latents, width = self.checkpoint.shape("perceiver.latents")
        depth = next(n for n in range(99) if f"perceiver.layers.{n}.0.to_q.weight" not in self.checkpoint)
        return {
            "hidden_size": width, "num_latents": latents, "num_hidden_layers": depth, "head_dim": _HEAD_WIDTH,
            "num_attention_heads": self.checkpoint.shape("perceiver.layers.0.0.to_q.weight")[0] // _HEAD_WIDTH,
            "intermediate_size": self.checkpoint.shape("perceiver.layers.0.1.1.weight")[0], "layer_norm_eps": 1e-5,
        }  # fmt: skip

    def embeddings(self) -> torch.Tensor | None:
        """The trained embeddings (V, D); None where the file has none."""
        name = next((n for n in self.checkpoint if n.endswith(("embed_tokens.weight", "wte.weight"))), None)
        return None if name is None else self.checkpoint[name].clone()

    def settings(self, vision: Mapping[str, Any]) -> dict[str, Any]:
        """Of the whole model: the ViT without its class token, the resampler, no projector."""
        return {
            "vision_config": {**vision, "final_norm": "all"}, "vision_feature_select_strategy": "default",
            "vision_resampler_config": self.resampler(), "projector_type": "none",
        }  # fmt: skip

    def tensors(self, layers: list[int], shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
        """The resampler's, the gated `layers`' and the embeddings. Raises ValueError as `KeyTable.convert`."""
        prefixes = ("model.vision_resampler.", *(f"model.language_model.layers.{number}." for number in layers))
        wanted = {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}
        stood = [number - count for count, number in enumerate(layers)]
        wrong = [] if self.before == stood else [f"before {self.before}, but every {self.every} is before {stood}"]
        raise_faults("the file's gated layers are elsewhere", wrong)
        table = PERCEIVER.under("perceiver.", "model.vision_resampler.")
        for layer, number in zip(self.before, layers, strict=True):
            table += BLOCK.under(f"{self._stack}.{layer}{self._ending}", f"model.language_model.layers.{number}.")
        rest = {name: "of the towers, read from them" for name in self._of_towers(table)}
        tensors = table.adding(dropped=rest).convert(self.checkpoint, wanted).tensors
        embeddings = self.embeddings()
        return tensors if embeddings is None else {**tensors, "model.language_model.embed_tokens.weight": embeddings}

    def _of_towers(self, table: KeyTable) -> Iterable[str]:
        """Frozen towers, embeddings, and the gated layers' second names."""
        return (
            n for n in self.checkpoint if n.startswith(("lang_encoder.", "vision_encoder.")) and not table.knows(n)
        )


def grown(rows: int) -> Reshape:
    """A table (V, D) with new rows after its own, each their mean, similar to Transformers."""

    def forward(old: List) -> tuple[List, List]:
        more = old[0].mean(0, keepdim=True).expand(rows - len(old[0]), *old[0].shape[1:])
        return [torch.cat([old[0], more])], []

    return Reshape(f"grown to {rows} rows", forward, lambda new, unread: new)
