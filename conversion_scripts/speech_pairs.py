"""An encoder of sounds and a decoder of text in one class of Transformers: what Speech2Text and Moonshine share.

names of the encoder ── as they are ──► model.audio_tower, Transformers' own class
names of the decoder ──── a table ────► model.language_model
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..weights.checkpoint import Checkpoint, read_json
from ..weights.config_table import TowerPlan, prefix_of, source_config
from ..weights.key_table import KeyTable, raise_faults
from ..weights.text_names import BUFFER
from .family import Family, Layout, Plan

_ENCODER = KeyTable(
    modules={"{rest}": "{rest}"},
    dropped={
        "embed_positions.weights": BUFFER,
        "embed_positions._float_tensor": BUFFER,
        "rotary_emb.inv_freq": BUFFER,
    },
)


@dataclass(frozen=True)
class HeardPair:
    """One such class.

    anchors: a tensor of the encoder, the decoder's embeddings, and the head. hearing: settings of the encoder, those
    that both stacks share among them; no_decoder: the smallest decoder, which stands in a tower's settings.
    shared: their name -> MM's, of settings that are one for both stacks. decoder, settings: of `weights`, there and
    back. repeated: settings of the decoder that its class sets to the encoder's.
    """

    kind: str
    config_class: type
    architecture: str
    processor: str
    anchors: tuple[str, str, str]
    hearing: tuple[str, ...]
    no_decoder: Mapping[str, Any]
    shared: Mapping[str, str]
    decoder: Callable[[Any, Any], TowerPlan]
    settings: Callable[[Any], dict[str, Any]]
    repeated: Mapping[str, str] = field(default_factory=dict)

    def family(self, name: str) -> Family:
        """As `mm convert --to NAME` knows it."""

        def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
            return config.get("model_type") == self.kind

        return Family(name, recognises, self.plan, self.layout, compare_heard, decodes_by_config=True)

    def plan(self, checkpoint: Checkpoint) -> Plan:
        """Raises ValueError for a part of one, and for settings that MM lacks."""
        config = source_config(checkpoint.config)
        self._check_whole(config, checkpoint)
        text = self.decoder(config, checkpoint)
        before = prefix_of(checkpoint, "decoder.embed_tokens.weight")
        decoding = read_json(checkpoint.directory, "generation_config.json") or {}
        ids = {
            name: getattr(config, name) if decoding.get(name) is None else decoding[name]
            for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")
        }
        start = ids.pop("decoder_start_token_id")
        hearing = {name: getattr(config, name) for name in self.hearing}
        hearing |= {name: getattr(config, same) for name, same in self.repeated.items()}
        made = MMConfig(
            modalities=["audio"],
            audio_config={"model_type": self.kind, **hearing, **self.no_decoder},
            text_config={**text.settings, **ids, "bos_token_id": start},
            projector_type="none",
            **text.head_settings,
        )
        table = _ENCODER.under(f"{before}encoder.", "model.audio_tower.")
        table += text.table.under("", "model.language_model.") + text.head
        generation = {"decoder_start_token_id": start}
        return Plan(MMForSpeechSeq2Seq, made, table, generation=generation, hears=True, notes=text.notes)

    def _check_whole(self, config: Any, names: Any) -> None:
        """Raises ValueError where a part is missing."""
        *parts, matrix = self.anchors
        for part in parts:
            end = part.removeprefix("model.")
            if not any(name.endswith(end) for name in names):
                raise ValueError(f"no tensor is named ...{end}: only a whole {self.architecture} is converted")
        if not config.tie_word_embeddings and matrix not in names:
            raise ValueError(f"tie_word_embeddings=False, but the file has no {matrix}: a model without its head")

    def layout(self, model: Any) -> Layout:
        """Raises ValueError for a model of another make."""
        config: MMConfig = model.config
        audio: Any = config.audio_config
        text: Any = config.text_config
        if not isinstance(audio, self.config_class) or config.modalities != ["audio"]:
            raise ValueError(
                f"a {self.kind} has the audio tower of one and no other media; this has {config.modalities}"
            )
        apart = [
            f"{theirs} is {getattr(audio, theirs)!r} in the encoder and {getattr(text, ours)!r} in the decoder"
            for theirs, ours in self.shared.items()
            if getattr(audio, theirs) != getattr(text, ours)
        ]
        raise_faults(f"a {self.kind} has one setting for both stacks", apart)
        settings = {name: getattr(audio, name) for name in self.hearing} | self.settings(text)
        settings |= {"decoder_start_token_id": text.bos_token_id, "tie_word_embeddings": config.tie_word_embeddings}
        return Layout(self.config_class(**settings), self.architecture, self.anchors, "", self.processor)


def compare_heard(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """Logits, and states of the encoder, of whole sounds."""
    sounds, ids, mask = given.input_features, given.input_ids, given.attention_mask
    there = theirs(sounds[:, 0], decoder_input_ids=ids, decoder_attention_mask=mask)
    heard = ours.model.encode_context(input_features=sounds).last_hidden_state
    return {
        "encoder states": (heard, there.encoder_last_hidden_state),
        "logits": (ours(ids, mask, input_features=sounds).logits[mask.bool()], there.logits[mask.bool()]),
    }
