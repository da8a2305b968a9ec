"""MMGenerationMixin: Transformers' generate() with all its arguments, that says where its logits are broken.

Broken numbers mostly produce padding, which is not a text.
"""

import warnings
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache
from transformers.generation.candidate_generator import AssistedCandidateGenerator
from transformers.generation.logits_process import (
    ClassifierFreeGuidanceLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput, GenerationMixin

from ..core.cache import MMCache, held_text, weights_mark
from ..core.inputs_outputs import RowInputs
from .guidance import doubled
from .picture_grammar import PictureGrammar, SeededChoice
from .shared_prompts import check_placeholders, hold_shared_prompts, is_usual

BROKEN = (
    "the logits are NaN or infinite, so the text means nothing: look for NaN among the weights, an overflow of "
    "float16 (take bfloat16 or float32) or pixels that are not normalised. remove_invalid_values=True writes on "
    "without NaN; config.check_inputs=False does not look"
)
# generate() reads these itself, but some of its ways hand them on to the model.
_OF_GENERATE = ("tokenizer", "assistant_tokenizer")
_PER_TOKEN = ("position_ids", "token_type_ids")
# What the steps of this thread's generate() read of their contexts, if it was asked for; None outside of generate().
_READ: ContextVar[list[tuple[torch.Tensor, ...]] | None] = ContextVar("cross_attentions_of_the_steps", default=None)


@dataclass
class MMGenerateOutput(GenerateDecoderOnlyOutput):
    """Transformers' output of generate(), and cross_attentions: of each step, of each cross layer (R, H, T, S), where
    output_attentions=True. T is the length of the prompt in the first step and 1 after it; S context tokens in the
    order of the context's token_sources. Assisted decoding gives none."""

    cross_attentions: tuple[tuple[torch.Tensor, ...], ...] | None = None


@dataclass
class MMGenerateBeamOutput(GenerateBeamDecoderOnlyOutput):
    """As MMGenerateOutput; rows are the beams as they stood at that step, which beam_indices follows."""

    cross_attentions: tuple[tuple[torch.Tensor, ...], ...] | None = None


_WITH_CROSS = {GenerateDecoderOnlyOutput: MMGenerateOutput, GenerateBeamDecoderOnlyOutput: MMGenerateBeamOutput}


class LogitsCheck(LogitsProcessor):
    """Changes no score, and keeps the best score of each row on the device, for 32 steps and then one number for all
    of them; read once, at the end."""

    def __init__(self):
        self.best: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.best.append(scores.amax(-1))  # tokens that are ruled out are -inf
        if len(self.best) > 32:
            best = torch.cat(self.best)
            self.best = [(best - best).sum()[None]]  # 0, or NaN
        return scores

    def found_broken(self) -> bool:
        return bool(self.best) and not bool(torch.cat(self.best).isfinite().all())


class NoPlaceholders(LogitsProcessor):
    """Rules out the ids that stand for media in a text, which no model can write."""

    def __init__(self, ids: list[int]):
        self.ids = ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for token_id in self.ids:
            scores[:, token_id] = -torch.inf
        return scores


class LogitsProcessors(LogitsProcessorList):
    """Transformers' own list, which asks for the signature of each processor at each step; ours have none."""

    def __call__(self, input_ids: Any, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        if all(isinstance(one, (LogitsCheck, NoPlaceholders, PictureGrammar)) for one in self):
            for one in self:
                scores = one(input_ids, scores)
            return scores
        return super().__call__(input_ids, scores, **kwargs)


class MMGenerationMixin(GenerationMixin):
    """The parts of generate() that every MM class shares."""

    config: Any
    lm_head: Any
    model: Any

    @torch.no_grad()
    def generate(self, inputs=None, generation_config=None, logits_processor=None, *args, **kwargs):
        """Transformers' own, and one RuntimeWarning if the logits of any step were broken.

        Raises: ValueError where broken logits leave nothing to sample from.
        """
        check, before = LogitsCheck(), _READ.set([])
        if self.config.check_inputs:
            logits_processor = LogitsProcessorList([check, *(logits_processor or [])])
        try:
            parent: Any = super()  # Transformers types its methods for a class of its own
            written = parent.generate(inputs, generation_config, logits_processor, *args, **kwargs)
            read = _READ.get()
        except RuntimeError as error:
            if check.found_broken():
                raise ValueError(f"generate(): {BROKEN}") from error
            raise
        finally:
            _READ.reset(before)
        if check.found_broken():
            warnings.warn(f"generate(): {BROKEN}", RuntimeWarning, stacklevel=5)
        if read and type(written) in _WITH_CROSS:
            written = _WITH_CROSS[type(written)](**written, cross_attentions=tuple(read))
        return written

    def generate_batch(self, *args, **kwargs):
        """Raises ValueError: Transformers' continuous batching reads only rows of ids, from pages of its own."""
        raise ValueError(
            "generate_batch() keeps keys and values in pages of its own and takes no pictures, videos or sounds; "
            "generate() takes a batch of rows, with media and contexts that rows share"
        )

    init_continuous_batching = generate_batch

    def _prepare_special_tokens(self, generation_config, *args, **kwargs):
        """Every way of generate() comes by here with the settings of the call."""
        vocab_size = self.config.text_config.vocab_size
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            check_ids_within(name, getattr(generation_config, name), vocab_size)
        parent: Any = super()
        return parent._prepare_special_tokens(generation_config, *args, **kwargs)

    def _prepare_generated_length(self, generation_config, has_default_max_length, *args, **kwargs):
        """As in Transformers; where nobody set a limit, a row whose prompt has begin has room for a whole picture."""
        parent: Any = super()
        parent._prepare_generated_length(generation_config, has_default_max_length, *args, **kwargs)
        ids = kwargs.get("inputs_tensor")
        if not (has_default_max_length and generation_config.max_new_tokens is None and self.config.draws):
            return generation_config
        if torch.is_tensor(ids) and not ids.is_floating_point() and bool((ids == self.config.drawing_begin_id).any()):
            whole = ids.shape[1] + self.config.codes_per_picture + 2  # the codes, end and eos
            generation_config.max_length = max(generation_config.max_length, whole)
        return generation_config

    def _get_logits_processor(self, generation_config, *args, model_kwargs=None, **kwargs) -> LogitsProcessorList:
        """Transformers' own; what rules ids out is before what chooses among the rest (top_k and the like)."""
        parent: Any = super()
        scale = (model_kwargs or {}).get("guidance_scale")
        if scale is not None:  # the rows are there twice; Transformers' way would read them again without a context
            generation_config.guidance_scale = None
        found = parent._get_logits_processor(generation_config, *args, model_kwargs=model_kwargs, **kwargs)
        seeded = [one for one in found if isinstance(one, SeededChoice)]  # last, after temperature and the like
        processors = LogitsProcessors([*(one for one in found if one not in seeded), *seeded])
        ids = [one for one in self.config.placeholder_ids.values() if one is not None]
        if self.config.media_in_text and ids:
            processors.insert(0, NoPlaceholders(ids))
        if self.config.draws:
            ends = generation_config.eos_token_id
            ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
            processors.insert(0, PictureGrammar(self.config, ends))
        if scale is not None:
            processors.insert(0, ClassifierFreeGuidanceLogitsProcessor(scale))
        return processors

    def _get_candidate_generator(self, *args, assistant_model=None, model_kwargs: Any = None, **kwargs):
        """An assistant reads the media tokens of this model, and the prompt with its own mask."""
        if "guidance_scale" in (model_kwargs or {}):
            raise ValueError("guidance_scale runs each row twice, which assisted generation cannot; leave one out")
        context = model_kwargs.get("encoder_outputs")
        width = getattr(getattr(assistant_model, "config", None), "context_width", None)
        if context is not None and width not in (None, context.last_hidden_state.shape[-1]):
            raise ValueError(
                f"assistant_model reads media tokens of width {width}, and this model makes them "
                f"{context.last_hidden_state.shape[-1]} wide: give an assistant that shares its towers and projectors"
            )
        parent: Any = super()
        made = parent._get_candidate_generator(
            *args, assistant_model=assistant_model, model_kwargs=model_kwargs, **kwargs
        )
        mask = model_kwargs.get("attention_mask")
        if self.config.media_in_text and type(made) is AssistedCandidateGenerator and torch.is_tensor(mask):
            made.assistant_kwargs["attention_mask"] = mask.to(made.assistant_model.device)
        return made

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs, is_encoder_decoder=False, num_new_tokens=1
    ) -> dict[str, Any]:
        """As in Transformers; the usual step, one token of one type, in fewer operations."""
        read, crossed = _READ.get(), outputs.get("cross_attentions")
        if read is not None and crossed and num_new_tokens == 1:
            read.append(crossed)
        types = model_kwargs.get("token_type_ids")
        if num_new_tokens != 1 or types is not None:
            updated = super()._update_model_kwargs_for_generation(
                outputs, model_kwargs, is_encoder_decoder, num_new_tokens
            )
            if types is not None and self.config.text_config.bidirectional_prompt:  # what is written is no prompt
                updated["token_type_ids"] = torch.cat([types, types.new_ones(len(types), num_new_tokens)], dim=-1)
            return updated
        if outputs.past_key_values is not None:
            model_kwargs["past_key_values"] = outputs.past_key_values
        positions, mask = model_kwargs.get("position_ids"), model_kwargs.get("attention_mask")
        if positions is not None:
            model_kwargs["position_ids"] = torch.cat([positions, positions[..., -1:] + 1], dim=-1)
        if mask is not None:
            model_kwargs["attention_mask"] = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=-1)
        return model_kwargs

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]: the rest goes on by name
        self, input_ids, inputs_embeds=None, **kwargs
    ):
        """Removes arguments that are not the model's, and those not needed with a cache that holds the context."""
        cache, is_guided = kwargs.get("past_key_values"), kwargs.pop("guidance_scale", None) is not None
        held = cache if isinstance(cache, MMCache) and (cache.holds_context or self.config.media_in_text) else None
        holds_context = held is not None and not kwargs.get("is_first_iteration")
        needless = (*_OF_GENERATE, *RowInputs.__annotations__) if holds_context else _OF_GENERATE
        kwargs = {name: value for name, value in kwargs.items() if name not in needless}
        if held is not None and holds_context and kwargs.get("next_sequence_length") == 1 and not held.is_compileable:
            lean = self._one_more_token(input_ids, **kwargs)
            if lean is not None:
                return doubled(lean) if is_guided else lean
        parent: Any = super()
        made = parent.prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if cache is not None and cache.is_compileable:
            words = made["input_ids"] if made.get("inputs_embeds") is None else made["inputs_embeds"]
            held_text(cache).add(words, kwargs.get("attention_mask"), int(cache.get_seq_length()))
        return doubled(made) if is_guided else made

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        cache = model_kwargs.get("past_key_values")
        if is_first_iteration and cache is not None and self.config.check_inputs:
            mask, embeds = model_kwargs.get("attention_mask"), model_kwargs.get("inputs_embeds")
            # Transformers leaves out a mask of ones and keeps its length.
            covered = getattr(generation_config, "_mask_length", -1) if mask is None else mask.shape[1]
            is_whole = covered == input_ids.shape[1]
            self._check_held(input_ids, embeds, mask, cache, is_whole)
            if embeds is None and self.config.media_in_text and int(cache.get_seq_length()):
                check_placeholders(self.config.placeholder_ids, input_ids, model_kwargs, is_whole)
        if is_first_iteration and self.config.media_in_text:
            if generation_config.prefill_chunk_size is not None and model_kwargs.get("encoder_outputs") is not None:
                raise ValueError("prefill_chunk_size cuts a prompt in which media stand; leave it out")
            # States that are shown would have a shape that depends on the other rows.
            shows = generation_config.output_hidden_states or generation_config.output_attentions
            if not (shows or self.config.output_hidden_states or self.config.output_attentions):
                self._share_prompts(input_ids, model_kwargs)
        parent: Any = super()
        # Transformers never calls it the first iteration of an assistant, whose prompt has placeholders all the same.
        has_media = self.config.media_in_text and model_kwargs.get("encoder_outputs") is not None
        return parent._prefill(input_ids, generation_config, model_kwargs, is_first_iteration or has_media)

    def _share_prompts(self, input_ids: torch.Tensor, model_kwargs: dict[str, Any]) -> None:
        """Before the prompts are read: what rows share of them, in a cache that grows by itself."""
        cache, context = model_kwargs.get("past_key_values"), model_kwargs.get("encoder_outputs")
        if not isinstance(cache, MMCache) or context is None or self.config.text_config.bidirectional_prompt:
            return  # a beginning that sees the rest of its prompt is another in each prompt
        halves = cache.self_attention_cache, cache.cross_attention_cache
        if any(type(half) is not DynamicCache for half in halves):  # one in int8 would round what rows share, only
            return
        if model_kwargs.get("inputs_embeds") is None and not int(cache.get_seq_length()):
            mask, index = model_kwargs.get("attention_mask"), model_kwargs.get("context_index")
            own = model_kwargs.get("position_ids"), model_kwargs.get("token_type_ids")
            if not is_usual(input_ids, mask, *own):
                return
            hold_shared_prompts(self.model, cache, input_ids, mask, context, index)

    def _check_held(self, input_ids, inputs_embeds, mask, cache, is_whole: bool) -> None:
        """Raises: ValueError if a cache was filled with other text than this call begins with, or by other weights.
        Of only the new tokens (not `is_whole`) the text before them is missing and cannot be compared."""
        length = int(cache.get_seq_length())
        if not length:
            return
        held = held_text(cache)
        if held.weights not in (None, weights_mark(self.model)):
            raise ValueError(
                "past_key_values was filled by another model, or by this one before its weights or adapters changed; "
                "call past_key_values.reset(), or leave it out"
            )
        words = input_ids if inputs_embeds is None else inputs_embeds
        if inputs_embeds is None and not is_whole:
            if held.beams:
                raise ValueError(
                    "past_key_values holds beams, and new tokens do not say which of them they continue: "
                    "give the whole text"
                )
            if held.is_known(length) and held.real(mask, len(words), length) is None:
                raise ValueError(
                    "past_key_values was filled with other rows, or with another padding than attention_mask has"
                )
            return
        if words.shape[1] <= length:
            raise ValueError(
                f"{words.shape[1]} tokens were given, but past_key_values holds {length} of them: give the whole "
                "text, longer than what is held, or new tokens with an attention_mask of all"
            )
        if not held.is_known(length):
            warnings.warn(
                f"generate(): nothing is known of the {length} tokens that past_key_values holds, so they are not "
                "compared with the text that was given",
                RuntimeWarning,
                stacklevel=6,
            )
        elif not held.agrees_with(words, mask, length, self.model.get_input_embeddings()):
            raise ValueError(
                f"past_key_values holds {length} tokens of another text than input_ids or inputs_embeds begin with, "
                "or of other rows, or with another padding; give the text that was read, or call "
                "past_key_values.reset()"
            )

    def _one_more_token(self, input_ids, next_sequence_length=None, is_first_iteration=False, **kwargs):
        """The inputs of a decode step as Transformers makes them, in fewer steps; None where they change devices."""
        weight = self.lm_head.weight  # a method where torch.ao packed it
        if not torch.is_tensor(weight) or input_ids.device != weight.device:
            return None
        inputs = {"input_ids": input_ids[:, -1:].clone(memory_format=torch.contiguous_format)}
        for name, value in kwargs.items():
            if value is not None and name in _PER_TOKEN:
                inputs[name] = value[..., -1:].clone(memory_format=torch.contiguous_format)
            elif name not in ("labels", *_PER_TOKEN) and not (name == "attention_mask" and value is None):
                inputs[name] = value
        return inputs

    def heal_tokens(self, input_ids, tokenizer=None):
        """Transformers' own, only from the texts: it reads the prompts again with the tokenizer."""
        healed = super().heal_tokens(input_ids, tokenizer)
        if healed.shape != input_ids.shape:
            raise ValueError(
                f"token_healing reads the prompts again with the tokenizer, which gave {tuple(healed.shape)} for "
                f"{tuple(input_ids.shape)}: it takes prompts without special tokens, of a tokenizer that adds none"
            )
        return healed


def check_ids_within(name: str, value: Any, vocab_size: int) -> None:
    """Raises: ValueError for ids that the model cannot write: what ends with such a one never ends.

    Negative ones are left to Transformers, where some use them for "never".
    """
    ids = (
        value.flatten().tolist() if torch.is_tensor(value) else value if isinstance(value, (list, tuple)) else [value]
    )
    if any(one is not None and (not isinstance(one, int) or one >= vocab_size) for one in ids):
        raise ValueError(
            f"{name}={value!r} is not among the ids 0..{vocab_size - 1} of the vocabulary; give one id, or several "
            "ends, in generation_config.json, model.generation_config or the call of generate()"
        )
