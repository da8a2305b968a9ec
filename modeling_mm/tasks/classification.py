"""MMForSequenceClassification: classes, scores or a strength for each text row, each context, or each pair of both.

B contexts, R rows (texts; contexts where there is no text), T text tokens, S context tokens, L labels.
"""

from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from ...configuration.checks.fields import REPRESENTATION_FUSIONS
from ...configuration.checks.tasks import classification_faults
from ...configuration.mm import MMConfig
from ...explaining.scored import MMScoreExplaining, of_every_row
from ..core.inputs_outputs import (
    READY,
    MediaInputs,
    MMContextOutput,
    MMModelOutput,
    MMOutput,
    ModelInputs,
    RowInputs,
    pop_inputs,
    reject_unknown,
    takes,
)
from ..fusion.context import modality_vectors
from ..losses.class_losses import check_class_labels, classification_kind, classification_loss
from ..model import MMModel
from .head import MMHead, check_task
from .row_ends import bos_where_absent
from .trainers import check_smoothing_of_classes


@dataclass
class MMClassifierOutput(MMOutput):
    """The classifier's output. L labels, M modalities, the text among them.

    loss when labels were given; logits (R, L). Under fusion_type="decision" also modality_logits {name: (R, L)}, the
    answer of each modality, and fusion_weights (M,), in the order of "text" and the config's modalities.
    hidden_states, attentions, cross_attentions: of the text stack, as in MMModelOutput.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    modality_logits: dict[str, torch.Tensor] | None = None
    fusion_weights: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


class MMForSequenceClassification(MMScoreExplaining, MMHead):
    """The base model with a linear classifier on the pooled text, on the fused vector, or one per modality (decision).

    Several pictures per context (two for comparing them) are slots of pixel_values; `max_images` gives them an order.
    A call without a text is one row per context: fusions of tokens read a text of only bos, the others no text. A row
    whose attention_mask is 0 throughout has no text either. `from_towers(vision, text)` starts from published towers.
    """

    head_modules = {"classifier": (), "classifiers": ()}
    accepts_loss_kwargs = False  # every loss is a mean over the rows of the batch
    classifier: Any  # nn.Linear; None under fusion_type="decision"
    classifiers: Any  # of each modality by name, under "decision"; None otherwise

    def __init__(self, config: MMConfig):
        super().__init__(config)
        check_task(self, classification_faults(config))
        self.is_late = config.fusion_type == "decision"
        self.is_pooled = config.fusion_type in REPRESENTATION_FUSIONS and not config.has_text_encoder
        self.model = MMModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout or 0.0)
        labels: int = config.num_labels or 0
        width = config.fusion_width if self.is_pooled else config.text_config.hidden_size
        self.classifiers = self.classifier = None
        if self.is_late:
            widths = {"text": width, **dict.fromkeys(config.modalities or (), config.media_width)}
            self.classifiers = nn.ModuleDict({name: nn.Linear(size, labels) for name, size in widths.items()})
        else:
            self.classifier = nn.Linear(width, labels)
        self.post_init()
        self._freeze_unread()

    def _freeze_unread(self) -> None:
        """Media are read by their tokens, and a text encoder by its tokens unless one vector of it is fused."""
        one_vector = self.config.fusion_type in REPRESENTATION_FUSIONS
        self.freeze_pooled(keep=("language_model", "text_encoder") if one_vector else ("language_model",))

    @can_return_tuple
    @takes(MediaInputs, RowInputs)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        **inputs: Unpack[ModelInputs],
    ) -> MMClassifierOutput:
        """Classifies each row. Inputs as in `MMModel.forward`, without a cache, and:

        Args:
            labels: int64 (R,), or float (R, L) for soft targets and several labels, or float (R,) for one number;
                `classification_loss` of the config says what is made of them ("auto": as in Transformers).
        """
        reject_unknown(inputs, MMForSequenceClassification.forward)
        if labels is None:
            check_smoothing_of_classes(self.config)
        rows = pop_inputs(inputs, ("context_index", "context_ranges"))
        context: Any = self.model.context_of(**pop_inputs(inputs, (*MediaInputs.__annotations__, *READY)))
        text = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "token_type_ids": token_type_ids,
            **rows,
        }
        has_text = input_ids is not None or inputs_embeds is not None
        reads_text = not (self.is_late or self.is_pooled)  # also without a text: bos is read in its place
        if not has_text:
            context = self._checked_context(context, text)
        if reads_text and not has_text:
            text["input_ids"] = self._bos_rows(len(context.last_hidden_state))
        elif reads_text:
            bos = self.config.text_config.bos_token_id
            text["attention_mask"] = bos_where_absent(input_ids, attention_mask, bos)
        if has_text or reads_text:
            inputs["use_cache"] = False
            output = self.model(**text, encoder_outputs=context, return_dict=True, **dict(inputs))
        else:
            output = self._fused_media(context)
        logits, modality_logits, fusion_weights = self._answer(output)
        return MMClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            modality_logits=modality_logits,
            fusion_weights=fusion_weights,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            cross_attentions=output.cross_attentions,
        )

    def explained_targets(self, inputs: Any, targets: Any, rows: int) -> list[tuple[str, int]]:
        """Of explain: the label of each row by its name or number, and its number; None: the most likely one."""
        names: Any = self.config.id2label
        if targets is None:
            with torch.no_grad():
                targets = self(**inputs).logits.argmax(1)
        found = of_every_row(targets, rows, "a label's name or number")
        numbers = [next((key for key, name in names.items() if name == one), one) for one in found]
        for one, number in zip(found, numbers, strict=True):
            if isinstance(number, bool) or number not in names:
                raise ValueError(f"targets: {one!r} is no label of this model; its labels are {list(names.values())}")
        return [(names[number], number) for number in numbers]

    def explained_score(self, inputs: dict[str, Any], target: int, **states) -> tuple[torch.Tensor, Any]:
        """Of explain: the logit (n,) of a label, and the output with the states that are asked for."""
        output = self(**inputs, **states)
        return output.logits[:, target], output

    def explained_without_text(self, target: int) -> bool:
        """Of explain: whether a row may have no text."""
        return True

    def _fused_media(self, context: MMContextOutput) -> MMModelOutput:
        """What a fusion of vectors or answers makes of media without a text."""
        vectors, present = modality_vectors(context, self.config.modalities)  # pyright: ignore[reportArgumentType]: set
        pooled = self.model.get_submodule("fusion")(vectors) if self.is_pooled else None
        return MMModelOutput(pooler_output=pooled, modality_embeds=vectors, modality_present=present)

    def _answer(self, output: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None, torch.Tensor | None]:
        """Logits (R, L); under late fusion those of each modality by name and the weights (M,), too."""
        if not self.is_late:
            return self.classifier(self.dropout(output.pooler_output)), None, None
        vectors = output.modality_embeds.items()
        answers = {name: self.classifiers[name](self.dropout(vector)) for name, vector in vectors}
        logits, weights = self.model.get_submodule("fusion")(answers, output.modality_present)
        return logits, answers, weights

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        config = self.config
        kind = classification_kind(config.classification_loss, config.problem_type, logits.shape[1], labels)
        check_class_labels(labels, logits, kind, read_values=config.check_inputs)
        return classification_loss(logits, labels, kind)

    def _bos_rows(self, contexts: int) -> torch.Tensor:
        """int64 (B, 1): a text of bos for each context, as in generate()."""
        bos = self.config.text_config.bos_token_id
        if bos is None:
            raise ValueError("without input_ids the text is only bos; pass input_ids, or set text_config.bos_token_id")
        return torch.full((contexts, 1), int(bos), dtype=torch.long, device=self.device)

    @staticmethod
    def _checked_context(context: MMContextOutput | None, text: dict) -> MMContextOutput:
        """The context, which must be given. Raises ValueError for inputs of a text that was not given."""
        if context is None:
            raise ValueError("nothing to classify: pass input_ids or inputs_embeds, pixel_values, or both")
        given = [name for name, value in text.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)} was given without a text; pass input_ids or inputs_embeds too")
        return context


def class_scores(config: Any, logits: torch.Tensor) -> torch.Tensor:
    """Logits of a classification head as scores (R, L): shares of 1, a share for each label, or the number itself."""
    if logits.shape[1] == 1 or config.problem_type == "regression":
        return logits
    if config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    return logits.softmax(1)
