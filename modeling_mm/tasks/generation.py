"""MMForConditionalGeneration: captions, answers and any text about a context; generate() encodes a context once.

B contexts, R rows, k rows per context, T text tokens, V vocabulary, D hidden_size.
"""

from typing import Any, Unpack

import torch
from transformers.generation.configuration_utils import GenerationMode
from transformers.masking_utils import create_causal_mask, create_masks_for_generate
from transformers.utils.generic import can_return_tuple

from ...configuration.checks.tasks import generation_faults
from ...configuration.mm import MMConfig
from ...explaining.explain import MMExplaining
from ..core.attention import CallConfig
from ..core.cache import HeldText, MMCache, check_cache, held_text
from ..core.fingerprint import fingerprint
from ..core.input_checks import MEDIA_INPUTS, check_tensors, check_text
from ..core.inputs_outputs import (
    CacheInputs,
    MediaInputs,
    MMCausalLMOutput,
    ModelInputs,
    RowInputs,
    reject_unknown,
    takes,
)
from ..core.positions import check_growth
from ..core.prefix import answer_types
from ..fusion.context import as_context, trim_context
from ..losses.token_losses import next_labels
from .answer_ranking import MMRanking
from .drawing import MMDrawsInOrder
from .generation_mixin import MMGenerationMixin
from .guidance import check_guided, check_negative_is_read, is_guided, negative_prompt, with_empty
from .head import MMVocabularyHead, check_task
from .row_ends import bos_where_absent, check_once, check_prompt_ends, warn_of_beginnings, warn_of_endings
from .trainers import (
    answer_settings,
    calling_trainer,
    check_no_labels,
    check_smoothing_of_compiled,
    check_smoothing_of_tokens,
    prompts_of,
    register_shifted,
)


def as_mixin(parent: Any) -> Any:
    """super(), whose methods Transformers types for a class of its own."""
    return parent


class MMForConditionalGeneration(MMRanking, MMExplaining, MMDrawsInOrder, MMVocabularyHead, MMGenerationMixin):  # pyright: ignore[reportIncompatibleMethodOverride]: Transformers' two
    """The base model with a language-modelling head: generate(), rank_answers() and score() of given texts, and
    explain() of what was written; draw() where the vocabulary holds codes of pictures.

    `from_towers(vision, text)` starts from published towers; the text, any of BERT to Qwen3, then reads causally.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        register_shifted(cls)

    def __init__(self, config: MMConfig):
        super().__init__(config)
        check_task(self, generation_faults(config))
        self.ends_checked: set[str] = set()
        self.loss_type = "ForConditionalGeneration"  # Trainer counts the tokens of a shifted loss, in subclasses too
        self.build()

    def train(self, mode: bool = True):
        check_smoothing_of_compiled()
        return super().train(mode)

    def _embedded(self, pooled: torch.Tensor | None, side: str, given: dict[str, Any]) -> torch.Tensor | None:
        """Media as the decoder reads them, (B, S, Dc); of a text its own vector."""
        context = None if side == "text" else self.model.encode_context(**given)
        return pooled if context is None else context.last_hidden_state

    @can_return_tuple
    @takes(MediaInputs, RowInputs, CacheInputs)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_logits: bool | None = None,
        **inputs: Unpack[ModelInputs],
    ) -> MMCausalLMOutput:
        """Predicts the next token of each row. Inputs as in `MMModel.forward`, and:

        Args:
            labels: int64 (R, T), the rows' own ids, -100 where ignored; shifted inside. Gives `loss`. Without
                token_type_ids a text with bidirectional_prompt takes what comes before the first label as the prompt.
            shift_labels (among the kwargs, so that Trainer does not wait for it): int64 (R, T), what each token
                predicts, shifted before a text was cut into shards (sequence parallelism); read instead of labels.
            logits_to_keep: the last that many positions (0: all), or an index tensor; not together with labels.
            return_logits: False, with labels: the loss is made without the (R, T, V) logits, which are None. The same
                loss and gradients for a fraction of the time and memory: only positions with a label go through the
                head (`mm.losses.chunked_cross_entropy`). None: False in training with labels, else True.
        """
        shift_labels = inputs.pop("shift_labels", None)
        reject_unknown(inputs, MMForConditionalGeneration.forward)
        num_items_in_batch = inputs.pop("num_items_in_batch", None)
        if input_ids is None and inputs_embeds is None:
            raise ValueError("text is needed to predict text: pass input_ids or inputs_embeds (generate() needs none)")
        if not isinstance(logits_to_keep, int | torch.Tensor) or isinstance(logits_to_keep, bool):
            raise TypeError(f"logits_to_keep must be an int or a tensor; got {type(logits_to_keep).__name__}")
        if isinstance(logits_to_keep, int) and logits_to_keep < 0:
            raise ValueError(f"logits_to_keep={logits_to_keep} must not be negative; 0 keeps all positions")
        targets = None
        if labels is not None or shift_labels is not None:
            targets = self._targets(labels, shift_labels, input_ids, inputs_embeds, attention_mask, logits_to_keep)
            if self.config.text_config.bidirectional_prompt and token_type_ids is None:
                if labels is None:
                    raise ValueError(
                        "shift_labels do not say where a prompt ends; pass token_type_ids, 0 in the prompt"
                    )
                token_type_ids = answer_types(labels)
        elif num_items_in_batch is not None:
            check_smoothing_of_tokens()  # the loss is made outside of the model
        output = self.model(
            input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, pooled=False, return_dict=True,
            **inputs,
        )  # fmt: skip
        return self.predict(output, targets, num_items_in_batch, return_logits, logits_to_keep)

    def _targets(self, labels, shift_labels, input_ids, inputs_embeds, attention_mask, logits_to_keep) -> torch.Tensor:
        """int64 (R, T), what each token predicts."""
        if not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("labels need the logits of every position; leave logits_to_keep at 0")
        self.check_targets(labels if shift_labels is None else shift_labels, input_ids, inputs_embeds)
        if shift_labels is not None:
            return shift_labels
        if input_ids is not None:
            check_once(self, "beginnings", warn_of_beginnings, input_ids, attention_mask)
            check_once(self, "endings", warn_of_endings, labels)
        return next_labels(labels)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, generation_config=None, *args, **kwargs):
        """As in Transformers, with all its arguments. Labels raise an error, since a row of training holds its answer;
        a RuntimeWarning says where the logits are NaN or infinite.

        guidance_scale: rows that read a context are compared with the same rows that read the empty text, or, without
        a text encoder, no context; negative_prompt_ids (1 or B, Tc) are context texts in place of the empty one. Where
        the vocabulary holds codes of pictures, a row whose prompt has begin writes one whole picture, any other words.

        Seq2SeqTrainer(predict_with_generate=True) passes whole batches all the same: only their prompts are read, and
        the result is the answers without the prompts, to be compared with the labels. Limits of length
        then count the answer.
        """
        if calling_trainer("prediction_step") is None:
            check_no_labels(kwargs)
            negative = (None, None)
            if self.config.has_text_encoder:
                negative = [kwargs.pop(f"negative_prompt_{name}", None) for name in ("ids", "attention_mask")]
            with negative_prompt(*negative):
                return super().generate(inputs, generation_config, *args, **kwargs)
        check_smoothing_of_tokens()
        saved = generation_config or self.generation_config
        pad = saved.pad_token_id if saved.pad_token_id is not None else self.config.pad_token_id
        batch = answer_settings(prompts_of(kwargs, 0 if pad is None else int(pad)), saved)
        written = super().generate(inputs, generation_config, *args, **batch)
        return written[:, batch["input_ids"].shape[1] if "input_ids" in batch else 1 :]  # without a prompt: bos

    # ---- generate(): the context is encoded once and never expanded; everything with rows is -----------------------

    def _prepare_model_inputs(self, inputs, bos_token_id: Any, model_kwargs: dict[str, Any]):
        """The first step of generate() that sees the prompt: it is checked here, once."""
        cache = model_kwargs.get("past_key_values")
        if cache is not None:
            check_cache(cache)
        ready = model_kwargs.get("encoder_outputs")
        if ready is not None:
            real = model_kwargs.pop("encoder_attention_mask", None)
            model_kwargs["encoder_outputs"] = as_context(ready, real, self.config.context_width)
        names = ["attention_mask"] if cache is not None else ["attention_mask", "position_ids", "token_type_ids"]
        given: dict[str, Any] = {name: model_kwargs.get(name) for name in names}  # with a cache, maybe of all it holds
        mask = given["attention_mask"]
        if ready is not None and torch.is_tensor(mask) and mask.shape[1:] == (1,):
            given["attention_mask"] = None  # assisted decoding's, for its assistant: one column, whatever the prompt
        embeds = model_kwargs.get("inputs_embeds")
        ids = model_kwargs.get("input_ids") if inputs is None else inputs
        ids = ids if embeds is None else None  # embeddings are the prompt; ids may come with them
        if ids is not None and mask is not None and cache is None:
            bos_token_id = self.config.text_config.bos_token_id if bos_token_id is None else bos_token_id
            model_kwargs["attention_mask"] = bos_where_absent(ids, mask, bos_token_id)
        if ids is not None or embeds is not None:
            has_past = cache is not None
            given |= {"has_past": has_past, "read_values": self.config.check_inputs}
            check_text(self.config.text_config, ids, embeds, **given)
            if ids is not None and not has_past:
                check_once(self, "beginnings", warn_of_beginnings, ids, given["attention_mask"])
        return as_mixin(super())._prepare_model_inputs(inputs, bos_token_id, model_kwargs)

    def _maybe_initialize_input_ids_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]: called by place
        self, inputs, bos_token_id, model_kwargs: dict[str, Any]
    ):
        """Without a prompt every context gets one row, which starts from bos."""
        has_prompt = inputs is not None or "inputs_embeds" in model_kwargs
        rows = None if has_prompt else self._rows_without_prompt(model_kwargs)
        if rows is None:
            return as_mixin(super())._maybe_initialize_input_ids_for_generation(inputs, bos_token_id, model_kwargs)
        if bos_token_id is None:
            raise ValueError("without input_ids generation starts from bos; set generation_config.bos_token_id")
        return torch.full((rows, 1), int(bos_token_id), dtype=torch.long, device=self.device)

    @staticmethod
    def _rows_without_prompt(model_kwargs) -> int | None:
        """One row per entry of context_index, or per context."""
        given = {name: model_kwargs.get(name) for name in ("context_index", "context_input_ids", *MEDIA_INPUTS)}
        context = model_kwargs.get("encoder_outputs")
        given["encoder_outputs"] = None if context is None else context.last_hidden_state
        check_tensors(**given)
        return next((len(value) for value in given.values() if value is not None), None)

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor, model_kwargs: dict[str, Any], model_input_name, generation_config
    ):
        """Encodes the context here, before the rows are expanded, and takes every per-context input out."""
        check_prompt_ends(model_kwargs.get("attention_mask"))
        if self.config.text_config.bidirectional_prompt and model_kwargs.get("token_type_ids") is None:
            types = torch.zeros(inputs_tensor.shape[:2], dtype=torch.long, device=inputs_tensor.device)
            model_kwargs["token_type_ids"] = types  # all is prompt; what is written after it is of type 1
        media = {name: model_kwargs.pop(name) for name in MediaInputs.__annotations__ if name in model_kwargs}
        ready = model_kwargs.pop("encoder_outputs", None)
        lonely_mask = model_kwargs.pop("encoder_attention_mask", None)
        cache, guided = model_kwargs.get("past_key_values"), is_guided(generation_config.guidance_scale)
        check_negative_is_read(guided)
        if guided and cache is not None:
            check_guided(generation_config, model_kwargs, self.config)
        if isinstance(cache, MMCache) and cache.holds_context:
            seen = fingerprint(media, ready)
            if seen is not None and seen != held_text(cache).fingerprint:
                raise ValueError(
                    "past_key_values holds the keys and values of another context; call past_key_values.reset() "
                    "first, or leave the context out to continue with the one that it holds"
                )
            if seen is None or not self.config.media_in_text:
                return model_kwargs
        elif cache is not None and int(cache.get_seq_length()):
            known = held_text(cache).fingerprint
            if known not in (None, fingerprint(media, ready) or ""):
                raise ValueError(
                    "past_key_values was filled with a text that read another context, which it does not hold itself; "
                    "give the same context again, or call past_key_values.reset()"
                )
        context = self.model.context_of(ready, lonely_mask, **media)
        if context is not None:
            context = trim_context(context, keep_length=generation_config.cache_implementation == "static")
            context.fingerprint = fingerprint(media, ready)
            if guided:
                check_guided(generation_config, model_kwargs, self.config)
                index = model_kwargs.get("context_index")
                context, model_kwargs["context_index"] = with_empty(self.model, context, index, len(inputs_tensor))
                context.fingerprint = None  # nobody gives such a context again
                model_kwargs["guidance_scale"] = generation_config.guidance_scale
            model_kwargs["encoder_outputs"] = context
        return model_kwargs

    def _prepare_cache_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]: called by place
        self, generation_config, model_kwargs: dict[str, Any], generation_mode, batch_size, max_cache_length
    ) -> None:
        limits = generation_mode, batch_size, max_cache_length
        as_mixin(super())._prepare_cache_for_generation(generation_config, model_kwargs, *limits)
        cache = model_kwargs.get("past_key_values")
        if cache is None:
            return
        is_assisted = generation_mode is GenerationMode.ASSISTED_GENERATION and not generation_config.is_assistant
        if is_assisted and int(cache.get_seq_length()):
            raise ValueError(
                "assisted generation (assistant_model, prompt_lookup_num_tokens) reads the whole text again on top of "
                "what past_key_values holds; leave past_key_values out"
            )
        check_growth(self.config.text_config, max_cache_length)
        context = model_kwargs.get("encoder_outputs")
        length = 0 if context is None else context.last_hidden_state.shape[1]
        wrapped = MMCache.for_generation(cache, self.config.text_config, length)
        if not int(cache.get_seq_length()) and not wrapped.holds_context:
            wrapped.hold_text(HeldText()).fingerprint = "" if context is None else context.fingerprint
        model_kwargs["past_key_values"] = wrapped

    def create_masks_for_generate(self, *, attention_mask=None, past_key_values: Any = None, **kwargs):
        """Masks made ahead for a static cache; of a text after media of its own sequence forward makes the first, and
        all of a text with local layers, which have masks of their own."""
        if self.config.text_config.local_attention_layers:
            return attention_mask
        if self.config.fusion_type == "merged" and not self.config.has_text_encoder:
            if attention_mask is None or not past_key_values.holds_context:
                return attention_mask
            call: Any = CallConfig(self.config.text_config, is_causal=True).with_prefix()
            given = {"attention_mask": attention_mask, "past_key_values": past_key_values}
            return create_causal_mask(config=call, inputs_embeds=kwargs["inputs_embeds"], **given)
        return create_masks_for_generate(attention_mask=attention_mask, past_key_values=past_key_values, **kwargs)


register_shifted(MMForConditionalGeneration)
