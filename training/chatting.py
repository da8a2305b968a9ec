"""Any language model that is to talk about pictures: a place for them in its tokenizer, its texts and its chats."""

from typing import Any

from ..processing.chat_template import PLAIN_CHAT, with_places
from ..processing.processor import MMProcessor

# Fields of MMConfig where a chat starts from towers: LLaVA's.
IN_CHATS = {"fusion_type": "merged", "fusion_order": "in_text", "projector_type": "mlp"}


def placeholder_ids(processor: MMProcessor, settings: Any) -> dict[str, int]:
    """image_token_id and audio_token_id of the towers that there are; a tokenizer that lacks such a token gets it."""
    tokenizer: Any = processor.tokenizer
    found = {}
    for kind, tower in (("image", settings.vision_tower), ("audio", settings.audio_tower)):
        if tower is not None:
            token = f"<{kind}>"
            if token not in tokenizer.get_added_vocab():
                tokenizer.add_special_tokens(
                    {"additional_special_tokens": [token]}, replace_extra_special_tokens=False
                )
            found[f"{kind}_token_id"] = tokenizer.convert_tokens_to_ids(token)
    return found


def with_chats(processor: MMProcessor, config: Any) -> MMProcessor:
    """The processor with the places of media and a chat template that has them: its own, or the tokenizer's.

    Raises: ValueError for media whose number of tokens is not known: of a tower that is not MM's ViT.
    """
    if processor.placeholders is not None and processor.chat_template is not None:
        return processor
    kinds = [kind for kind in config.modalities if config.placeholder_ids[kind] is not None]
    counts = {kind: config.tokens_per_image for kind in kinds if kind == "image"}
    unknown = [kind for kind in kinds if counts.get(kind) is None]
    if unknown:
        raise ValueError(
            f"how many tokens a text reads of {', '.join(unknown)} is not known for this tower: take a ViT, CLIP or "
            "SigLIP, or give a processor with placeholders and tokens_per_item"
        )
    tokens = {kind: f"<{kind}>" for kind in kinds}
    own = processor.chat_template
    template = own or with_places(getattr(processor.tokenizer, "chat_template", None) or PLAIN_CHAT, tokens)
    return MMProcessor(
        processor.image_processor,
        processor.tokenizer,
        processor.feature_extractor,
        chat_template=template,
        placeholders=tokens,
        tokens_per_item=counts,
    )
