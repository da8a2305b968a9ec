"""MMForPreTraining: any weighted set of {LM, ITC, ITM, MLM, MIM} in one forward.

    loss   reads                              arXiv
    itc    pictures and texts apart           2103.00020 (InfoNCE), 2303.15343 (sigmoid)
    itm    a text joined with a picture       2107.07651, hard negatives
    lm     the text so far, and its picture   2201.12086
    mlm    the rest of a text, its picture    1810.04805, 2107.07651
    mim    the rest of a picture              2111.09886 (pixels), 2202.03555 (another tower's features)

The towers run once for the first four, on whole pictures, and the vision tower once more on masked pictures for "mim"
(mim_pass="shared": once for all five, on masked pictures).

B contexts, N pictures per context, R rows (texts), T text tokens, V vocabulary, L patches, P projection_dim.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from transformers.utils.generic import can_return_tuple

from ...configuration.checks.tasks import pretraining_faults
from ...configuration.mm import MMConfig
from ..core.context_rows import MMRows
from ..core.input_checks import MediaItems, check_labels, check_media, check_tensors
from ..core.inputs_outputs import (
    COMPARED,
    NOT_COMPARED,
    MediaInputs,
    MMOutput,
    ModelInputs,
    RowInputs,
    pop_inputs,
    takes,
)
from ..losses.momentum import momentum_update
from ..losses.token_losses import IGNORED, next_labels
from ..towers.any_tower import flatten_present, run_tower
from ..towers.vit import MMVisionModel
from .contrastive_head import normalised
from .contrastive_matching import MMMatchingModel, Text, contexts_with_media, shared_mean
from .head import build_vocabulary_head, check_task, predicted
from .masked_image import (
    build_masked_image_head,
    copy_tower,
    feature_errors,
    patch_tokens,
    patches_of,
    pixel_errors,
)


@dataclass
class MMPreTrainingOutput(MMOutput):
    """Each loss of `pretraining_losses`, without its weight, and loss, their weighted sum.

    logits (R, T, V) of "lm", mlm_logits (R, T, V), itm_logits (R, 2), image_embeds (B, P), text_embeds (R, P).
    hidden_states, attentions: of the texts read without media, for "itc".
    """

    loss: torch.Tensor | None = None
    loss_itc: torch.Tensor | None = None
    loss_itm: torch.Tensor | None = None
    loss_lm: torch.Tensor | None = None
    loss_mlm: torch.Tensor | None = None
    loss_mim: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mlm_logits: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class MMForPreTraining(MMMatchingModel):
    """The base model with the heads of the losses that pretraining_losses name.

    "lm" and "mlm" share one head over the vocabulary. Only "mim" sees masked pictures, unless mim_pass="shared". A
    loss whose inputs a batch lacks is off for that batch; on all processes alike.

    `MMForConditionalGeneration.from_pretrained(folder)` writes captions with what was trained here, and
    `MMForImageTextRetrieval.from_pretrained(folder)` has its embeddings and matching.

    `from_towers(vision, text)` starts from published towers, and takes the head of a BERT over with its text.
    """

    head_modules = {
        **MMMatchingModel.head_modules,
        "lm_head": ("lm", "mlm"), "lm_head_transform": ("lm", "mlm"), "mim_head": ("mim",), "mim_tower": ("mim",),
    }  # fmt: skip
    # None without a loss that needs them
    lm_head_transform: Any
    lm_head: Any  # nn.Linear (D -> V)
    mim_head: Any  # nn.Linear (D -> the pixels or features of a patch)
    mim_tower: Any  # MMVisionModel, with mim_target="features"

    def __init__(self, config: MMConfig):
        super().__init__(config)
        check_task(self, pretraining_faults(config))
        self.lm_head_transform = self.lm_head = self.mim_head = self.mim_tower = None
        self.sees_masked = config.mim_pass == "shared" or set(self.losses) == {"mim"}  # every loss, not only "mim"
        if {"lm", "mlm"} & set(self.losses):
            self.lm_head_transform, self.lm_head = build_vocabulary_head(config)
            self._tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
        if "mim" in self.losses:
            self.mim_head = build_masked_image_head(config.vision_config, config.mim_target)
            if config.mim_target == "features":
                self.mim_tower = MMVisionModel._from_config(config.vision_config)
        self.post_init()
        if self.mim_tower is not None:
            copy_tower(self.mim_tower, self.model.vision_tower)
        self._freeze_unread()

    def after_loading(self, info: Mapping[str, Iterable]) -> None:
        """A tower of targets that the checkpoint does not have starts as a copy."""
        if any(key.startswith("mim_tower.") for key in info["missing_keys"]):
            copy_tower(self.mim_tower, self.model.vision_tower)

    @can_return_tuple
    @takes(MediaInputs, RowInputs, without=NOT_COMPARED)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        matches: torch.Tensor | None = None,
        lm_targets: torch.Tensor | None = None,
        masked_input_ids: torch.Tensor | None = None,
        mlm_targets: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        return_loss: bool | None = None,
        return_logits: bool | None = None,
        **inputs: Unpack[ModelInputs],
    ) -> MMPreTrainingOutput:
        """Every loss that is asked for and whose inputs are given. Media, text and `matches` as in retrieval, and:

        Args:
            lm_targets: int64 (R, T), the rows' own ids, -100 where ignored, shifted inside; None: all real tokens.
            masked_input_ids: int64 (R, T), input_ids with some replaced; mlm_targets: (R, T), what stood there, -100
                elsewhere, not shifted. Both or neither.
            bool_masked_pos: bool (B[, N], L), True for each patch of pixel_values that is hidden from "mim".
            return_loss: None: in training. False gives only logits and embeddings.
            return_logits: False, with a loss: "lm" and "mlm" are made without their (R, T, V) logits, which are None.
                None: False in training with a loss, else True.
        """
        asked = self._asked_states(dict(inputs), MMForPreTraining.forward)
        index, ready = pop_inputs(inputs, ("context_index", "encoder_outputs")).values()
        media = pop_inputs(inputs, COMPARED)
        hidden = self._hidden_patches(bool_masked_pos, media["pixel_values"])
        context: Any = self._context(ready, hidden if self.sees_masked else None, **media)
        text = self._text(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, token_type_ids=token_type_ids
        )
        self._check_targets(text, lm_targets, masked_input_ids, mlm_targets)
        wants_loss = self.training if return_loss is None else return_loss
        if return_logits is False and not wants_loss:
            raise ValueError("return_logits=False gives only the losses; ask for them with return_loss=True")
        output: Any = MMPreTrainingOutput()
        self._compare(output, context, text, asked, index, matches, wants_loss)
        rows = None
        if text is not None and context is not None:
            rows = MMRows(len(text["input_ids"]), len(context.last_hidden_state), index)
        if "lm" in self.losses and text is not None:
            targets = lm_targets if lm_targets is not None else self._own_targets(text)
            states = self.model.write(context, rows, **text).last_hidden_state
            targets = next_labels(targets) if wants_loss else None
            output["loss_lm"], output["logits"] = self._predicted(states, targets, return_logits)
        if text is not None and masked_input_ids is not None:
            states = self.model.read(context, rows, **{**text, "input_ids": masked_input_ids}).last_hidden_state
            targets = mlm_targets if wants_loss else None
            output["loss_mlm"], output["mlm_logits"] = self._predicted(states, targets, return_logits)
        if hidden is not None and wants_loss:
            output["loss_mim"] = self._mim_loss(context, hidden, media)
        if wants_loss:
            output["loss"] = self._weighted(output)
        return MMPreTrainingOutput(**output)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def _hidden_patches(self, bool_masked_pos, pixel_values) -> torch.Tensor | None:
        """bool (B, N, L)."""
        if bool_masked_pos is None:
            return None
        check_tensors(bool_masked_pos=bool_masked_pos, pixel_values=pixel_values)
        if "mim" not in self.losses or pixel_values is None:
            what = "no pixel_values" if "mim" in self.losses else "pretraining_losses without 'mim'"
            raise ValueError(f"bool_masked_pos was given, but with {what}; leave it out")
        size = self.config.vision_config.patch_size
        patches = (pixel_values.shape[-2] // size) * (pixel_values.shape[-1] // size)
        expected = (len(pixel_values), pixel_values.shape[1] if pixel_values.ndim == 5 else 1, patches)
        if bool_masked_pos.dtype != torch.bool or tuple(bool_masked_pos.shape) not in (
            expected,
            (expected[0], patches) if expected[1] == 1 else expected,
        ):
            raise ValueError(
                f"bool_masked_pos must be bool {expected}, one per patch of each picture; got {bool_masked_pos.dtype} "
                f"{tuple(bool_masked_pos.shape)}"
            )
        return bool_masked_pos.reshape(expected)

    def _check_targets(self, text: Text | None, lm_targets, masked_input_ids, mlm_targets) -> None:
        given = {"lm_targets": lm_targets, "masked_input_ids": masked_input_ids, "mlm_targets": mlm_targets}
        check_tensors(**given)
        if (masked_input_ids is None) != (mlm_targets is None):
            raise ValueError("masked_input_ids and mlm_targets go together; only one of them was given")
        for name, value in given.items():
            loss = "lm" if name == "lm_targets" else "mlm"
            if value is None:
                continue
            if loss not in self.losses or text is None:
                what = "no input_ids" if loss in self.losses else f"pretraining_losses without {loss!r}"
                raise ValueError(f"{name} was given, but with {what}; leave it out")
            check_labels(self.config, value, text["input_ids"].shape)

    @staticmethod
    def _own_targets(text: Text) -> torch.Tensor:
        """int64 (R, T), every real token."""
        mask = text["attention_mask"]
        return text["input_ids"] if mask is None else text["input_ids"].masked_fill(~mask.bool(), IGNORED)

    # ---- losses -----------------------------------------------------------------------------------------------------

    def _compare(
        self, output, context, text: Text | None, asked: dict, context_index, matches, wants_loss: bool
    ) -> None:
        """Embeddings, "itc" and "itm"."""
        embeds = None
        if self.itc_head is not None and context is not None:
            output["image_embeds"] = normalised(self.itc_head.of_context(context))
        if self.itc_head is not None and text is not None:
            output["text_embeds"] = self._text_vectors(output, text, asked)
        if matches is not None and (self.itm_head is None or not wants_loss):
            raise ValueError("matches are targets of 'itm'; name it in pretraining_losses, and ask for a loss")
        if not wants_loss or context is None or text is None or not {"itc", "itm"} & set(self.losses):
            return
        compared = self._compared(contexts_with_media(context), text, context_index, matches)
        if self.itc_head is not None:
            embeds = (output.image_embeds, output.text_embeds)
            output["loss_itc"] = self._itc_loss(*embeds, compared)
        if self.itm_head is not None:
            output["loss_itm"], output["itm_logits"] = self._itm_loss(context, text, compared, embeds, matches)

    def _predicted(self, states: Any, targets: torch.Tensor | None, return_logits: bool | None) -> tuple:
        """The mean loss (None without targets) of what each token predicts, and the logits (R, T, V)."""
        total, logits = predicted(self, states, targets, 1, return_logits)
        if total is None or targets is None:
            return None, logits
        return shared_mean(total, (targets != IGNORED).sum(), torch.is_grad_enabled()), logits

    def _mim_loss(self, context: Any, hidden: torch.Tensor, media: dict) -> torch.Tensor:
        """The mean error over the hidden patches that are real."""
        vision = self.config.vision_config
        given = {name: media[name] for name in ("pixel_values", "pixel_attention_mask") if media[name] is not None}
        (items,) = check_media(self.config, given, hidden)
        output = context.vision_output if self.sees_masked else self._masked_output(items, media)
        seen = flatten_present(items)
        pixels, real, counted = seen.values, seen.mask, seen.hidden_patches
        assert counted is not None  # check_media has made it of `hidden`
        if real is not None:
            counted = counted & real.flatten(1)
        predicted = self.mim_head(patch_tokens(output.last_hidden_state, vision))
        if self.mim_tower is None:
            errors = pixel_errors(predicted, patches_of(pixels, vision.patch_size))
        else:
            errors = feature_errors(predicted, patch_tokens(self._target_states(pixels, real), vision))
        total = errors.masked_fill(~counted, 0).sum()
        return shared_mean(total, counted.sum(), torch.is_grad_enabled())

    def _masked_output(self, items: MediaItems, media: dict) -> Any:
        """What the tower makes of the masked pictures."""
        interpolate = bool(media["interpolate_pos_encoding"])
        return run_tower(self.model.vision_tower, items, interpolate_pos_encoding=interpolate).output

    @torch.no_grad()
    def _target_states(self, pixels: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """(n, S, D) of whole pictures by the tower of targets, which follows in training, one step per forward."""
        if self.training and self.config.mim_momentum != 1:
            momentum_update(self.mim_tower, self.model.vision_tower, self.config.mim_momentum)
        return self.mim_tower(pixels, interpolate_pos_encoding=True, pixel_attention_mask=real).last_hidden_state

    def _weighted(self, output: MMPreTrainingOutput) -> torch.Tensor:
        """The weighted sum. A loss that is off leaves its parameters with a gradient of 0, not without one."""
        found = {name: output.get(f"loss_{name}") for name in self.losses}
        there = [self.losses[name] * loss for name, loss in found.items() if loss is not None]
        if not there:
            raise ValueError(
                f"none of the losses {', '.join(self.losses)} has its inputs: itc and itm need media and input_ids, "
                "lm input_ids, mlm masked_input_ids and mlm_targets, mim pixel_values and bool_masked_pos"
            )
        total = torch.stack(there).sum()
        if len(there) < len(found) and self.training:
            total = total + sum(p.flatten()[:1].sum() for p in self.parameters() if p.requires_grad) * 0
        return total
