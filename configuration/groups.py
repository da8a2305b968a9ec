"""The groups of settings: each a class whose fields a configuration has as its own, and may be given as one dict.

MMConfig(fusion={"type": "merged"}, objectives={"projection_dim": 512}, text_config={"cross_attention": {...}})
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .settings import SettingsGroup, setting


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class FusionSettings:
    """How media and text are joined. One word, `fusion_type`, is enough; the others are of single fusions."""

    fusion = SettingsGroup()

    fusion_type: Literal["cross_attention", "co_attention", "merged", "concat", "sum", "gated", "decision", "none"] = (
        setting("cross_attention", "how media and text are joined; docs/architecture.md", "MMModel")
    )
    fusion_num_layers: int = setting(2, "co_attention: number of layers", "MMModel", values="> 0")
    fusion_size: int | None = setting(
        None,
        "concat, sum, gated: width of the fused vector; None: hidden_size of the text",
        "MMModel",
        values="> 0",
    )
    fusion_mask: Literal["prefix", "causal", "bidirectional"] | None = setting(
        None,
        "merged: media see each other and the text is causal; all is causal; all see all. None: prefix for a causal "
        "text, else bidirectional",
        "MMModel",
    )
    fusion_order: Literal["media_first", "text_first", "in_text"] = setting(
        "media_first",
        "merged: which comes first in the sequence; in_text: media stand where the text has their placeholders, and "
        "are counted in its positions (LLaVA)",
        "MMModel",
    )
    image_token_id: int | None = setting(
        None, "in_text: the id that stands in input_ids for each token of a picture", "MMModel", values=">= 0"
    )
    video_token_id: int | None = setting(None, "the same for videos", "MMModel", values=">= 0")
    audio_token_id: int | None = setting(None, "the same for sounds", "MMModel", values=">= 0")
    fusion_embedding_norm: bool = setting(
        False, "merged: the text's embedding norm is for the media tokens too (VisualBERT)", "MMModel"
    )
    fusion_weights: dict[str, float] | None = setting(
        None, 'decision: fixed shares of "text" and of each modality, which sum to 1; None: learned', "MMModel"
    )


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class ObjectiveSettings:
    """The losses that compare, match and mask, and the loss of a classifier: settings of training."""

    objectives = SettingsGroup()

    classification_loss: Literal["auto", "bce", "kl", "mse", "ordinal"] = setting(
        "auto", "auto: by problem_type, as in Transformers", "MMForSequenceClassification"
    )
    projection_dim: int = setting(
        256, "width of the embeddings that are compared", "MMForImageTextRetrieval, MMForPreTraining", values="> 0"
    )
    projection_bias: bool = setting(False, "the projections have biases", "MMForImageTextRetrieval, MMForPreTraining")
    projected_sides: list[str] | None = setting(
        None,
        'which of "text", "vision", "audio" are projected, the others are compared as pooled; None: all',
        "MMForImageTextRetrieval, MMForPreTraining",
    )
    projection_hidden_sizes: dict[str, int] | None = setting(
        None,
        'sides ("text", "vision", "audio") whose projection is two layers, the first with a bias, each with the width '
        "between them; None: one layer each",
        "MMForImageTextRetrieval, MMForPreTraining",
    )
    projection_act: str | None = setting(
        None,
        "activation between two such layers; None: none",
        "MMTwoLayerProjection",
        values="a name of transformers.activations.ACT2FN",
    )
    logit_scale_init_value: float | int = setting(
        2.6592,
        "logarithm of the scale of the similarities, as it starts",
        "MMForImageTextRetrieval, MMForPreTraining",
        values="(finite)",
    )
    logit_scale_max: float | int | None = setting(
        4.6052,
        "the largest logarithm it learns; None: no limit (SigLIP)",
        "MMForImageTextRetrieval, MMForPreTraining",
        values="(finite)",
    )
    text_logit_scale: bool = setting(
        False,
        "texts against media have a learned scale of their own, as in CLAP",
        "MMForImageTextRetrieval, MMForPreTraining",
    )
    logit_bias_init_value: float | int | None = setting(
        None,
        "sigmoid: a learned number that is added to the similarities; None: none",
        "MMForImageTextRetrieval, MMForPreTraining",
        values="(finite)",
    )
    contrastive_loss: Literal["infonce", "sigmoid"] = setting(
        "infonce",
        "a softmax over the batch (CLIP), or pair by pair (SigLIP)",
        "MMForImageTextRetrieval, MMForPreTraining",
    )
    contrastive_label_smoothing: float | int = setting(
        0.0,
        "infonce: the share of the targets that is spread evenly over the batch, 0.1 in ALIGN",
        "MMForImageTextRetrieval, MMForPreTraining",
        values="in [0, 1)",
    )
    contrastive_exchange: Literal["gather", "ring"] = setting(
        "gather",
        "sigmoid: texts of all processes at once, or of one process at a time",
        "MMForImageTextRetrieval, MMForPreTraining",
    )
    contrastive_queue_size: int = setting(
        0,
        "negatives of earlier batches, from a slowly changing copy (MoCo, ALBEF); 0: no queue",
        "MMForImageTextRetrieval",
        values=">= 0",
    )
    contrastive_momentum: float | int = setting(
        0.995, "the share of itself that the copy keeps in every step", "MMMomentumEncoder", values="in [0, 1]"
    )
    contrastive_soft_targets: float | int = setting(
        0.0, "the share of the copy's similarities in the targets", "MMMomentumEncoder", values="in [0, 1)"
    )
    contrastive_chunk_size: int | None = setting(
        None,
        "media and texts that are encoded at a time (GradCache); None: all",
        "MMForImageTextRetrieval",
        values="> 0",
    )
    pretraining_losses: dict[str, float | int] | None = setting(
        None,
        'weights of "itc", "itm", "lm", "mlm", "mim"; None: itc, itm and lm, or itc where nothing is joined, each 1.0',
        "MMForImageTextRetrieval, MMForPreTraining",
    )
    itm_bos_token_id: int | None = setting(
        None,
        "begins a text that is matched with a picture ([ENC] of BLIP); None: the text keeps its own",
        "MMForImageTextRetrieval, MMForPreTraining",
    )
    itm_hard_negatives: float | int = setting(
        0.5,
        "the share of the negatives of training that are drawn by similarity, as in ALBEF and BLIP (1.0); the others "
        "are drawn evenly, so that matching learns before the embeddings do",
        "MMForImageTextRetrieval, MMForPreTraining",
        values="in [0, 1]",
    )
    mim_target: Literal["pixels", "features"] = setting(
        "pixels", "what is predicted of masked patches; features: of another tower", "MMForPreTraining"
    )
    mim_pass: Literal["own", "shared"] = setting(
        "own",
        "own: the tower runs again on masked pictures, other losses read whole ones; shared: one run on masked "
        "pictures for all losses (cheaper, as before this setting)",
        "MMForPreTraining",
    )
    mim_momentum: float | int = setting(
        1.0,
        "the share of itself that this tower keeps in every step; 1: it does not change",
        "MMForPreTraining",
        values="in [0, 1]",
    )


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class DrawingSettings:
    """Where a vocabulary holds the codes of pictures beside words: id = drawing_first_id + code. A row that draws is
    (bos, prompt, begin, a code for each place of the grid, end). All None: the model only writes words."""

    drawing = SettingsGroup()

    drawing_first_id: int | None = setting(
        None, "the id of code 0; None: no codes, and none of the other settings", "PictureGrammar", values=">= 0"
    )
    drawing_codebook_size: int | None = setting(
        None, "how many codes there are, as of the MMImageTokenizer", "PictureGrammar", values="> 0"
    )
    drawing_grid: list[int] | None = setting(
        None, "[rows, columns] of the codes of a picture, which stand in raster order", "PictureGrammar"
    )
    drawing_begin_id: int | None = setting(
        None, "the id before the codes of a picture", "PictureGrammar", values=">= 0"
    )
    drawing_end_id: int | None = setting(
        None, "the id after them, which ends the row", "PictureGrammar", values=">= 0"
    )
    drawing_mask_id: int | None = setting(
        None,
        "the id in the place of codes that are not known yet; only MMForMaskedLM, which draws in parallel, needs it",
        "PictureGrammar, MMForMaskedLM",
        values=">= 0",
    )


def drawing_needs(fields: Mapping[str, Any]) -> dict[str, int]:
    """The least vocab_size and max_position_embeddings of a text whose rows draw, by fields of DrawingSettings; {} for
    those without, and for broken ones."""
    first, size, grid = (fields.get(f"drawing_{name}") for name in ("first_id", "codebook_size", "grid"))
    others = [fields.get(f"drawing_{name}_id") for name in ("begin", "end", "mask")]
    if (
        not isinstance(first, int)
        or not isinstance(size, int)
        or not isinstance(grid, (list, tuple))
        or len(grid) != 2
    ):
        return {}
    last = max([first + size - 1, *(one for one in others if isinstance(one, int))])
    return {"vocab_size": last + 1, "max_position_embeddings": grid[0] * grid[1] + 3}


def default_losses(fusion_type: str) -> dict[str, float]:
    """pretraining_losses where none are given: those of BLIP, as far as the fusion allows."""
    return {"itc": 1.0} if fusion_type in ("decision", "none") else {"itc": 1.0, "itm": 1.0, "lm": 1.0}


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class CrossAttentionSettings:
    """How the layers of a text read a context by cross-attention."""

    cross_attention = SettingsGroup()

    cross_attention_layers: list[int] | None = setting(
        None, "which layers cross-attend; None: MMConfig fills in all or none", "MMTextModel"
    )
    cross_attention_placement: Literal["inside", "own"] = setting(
        "inside", "inside: such a layer is (self, cross, mlp); own: it is (cross, mlp)", "MMTextModel"
    )
    cross_attention_hidden_size: int | None = setting(
        None,
        "width of the tokens that are read; None: what the context has, else hidden_size",
        "MMLayer",
        values="> 0",
    )
    cross_attention_gate: Literal["none", "tanh", "tanh_vector"] = setting(
        "none",
        "a learned factor that starts at 0, one or one per channel; own layers have one on their MLP too",
        "MMLayer",
    )
    cross_attention_unread: Literal["row", "attention", "mlp"] = setting(
        "row",
        "own layers, where nothing may be read. row: a token goes without their attention, a row without a context "
        "without the whole layer (Flamingo); attention: both without only the attention (Idefics); mlp: a token reads "
        "the whole context all the same, without the MLP (Llama 3.2 Vision)",
        "MMLayer",
    )
    cross_attention_memory_norm: bool = setting(False, "a norm on the tokens that are read", "MMLayer")
    cross_attention_qk_norm: Literal["none", "rms_norm", "layer_norm"] = setting("none", "as qk_norm", "MMLayer")
    cross_attention_overrides: dict | None = setting(
        None,
        "other num_attention_heads, num_key_value_heads, head_dim or attention_bias than those of the layer; for own "
        "layers also its norm and MLP",
        "MMLayer",
    )
