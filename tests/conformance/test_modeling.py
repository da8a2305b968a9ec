"""ModelTesterMixin over every class and tower of MM; what is overridden, and why, is in README.md beside this file."""

# The upstream package is made at run time, from an sdist.

import copy
import unittest
from typing import Any

import pytest
import torch
from torch import nn
from upstream.test_modeling_common import GenerationTesterMixin, ModelTesterMixin, floats_tensor, ids_tensor  # pyright: ignore[reportMissingImports]

from mm import (
    MMConfig,
    MMConvConfig,
    MMConvModel,
    MMForConditionalGeneration,
    MMForImageTextRetrieval,
    MMForMaskedLM,
    MMForPreTraining,
    MMForSequenceClassification,
    MMModel,
    MMTextConfig,
    MMTextModel,
    MMVisionConfig,
    MMVisionModel,
)

STACK = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # in a vocabulary of any size: tests make it smaller
TEXT = {**STACK, "vocab_size": 110, "max_position_embeddings": 40, **IDS}
ROPE = {"position_embedding_type": "rope", "norm_position": "pre", "final_norm": "all", "embedding_norm": False}
VISION = {**STACK, "image_size": 16, "patch_size": 4, "use_mask_token": True}
AUDIO = {
    "model_type": "whisper", "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "num_mel_bins": 12, "max_source_positions": 4, "decoder_layers": 1, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 24, "vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip


def pictures(*leading: int) -> torch.Tensor:
    return floats_tensor([*leading, 3, 16, 16])


class Conformance(ModelTesterMixin):
    """`inputs` is the class of the tester."""

    inputs: Any
    test_can_init_all_missing_weights_before_2023 = True
    additional_model_inputs = ["pixel_values"]

    def setUp(self):
        self.model_tester = self.inputs()


# ---- towers ---------------------------------------------------------------------------------------------------------


class VisionInputs:
    """16 patches and the CLS token."""

    batch_size, seq_length, is_training = 4, 17, False
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    num_masks, mask_length = 5, 16

    def get_config(self):
        return MMVisionConfig(**VISION)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": pictures(self.batch_size)}


@pytest.mark.slow
class VisionModelTest(Conformance, unittest.TestCase):
    all_model_classes = (MMVisionModel,)
    inputs = VisionInputs
    test_resize_embeddings = False

    def test_model_get_set_embeddings(self):  # as in ViTModelTest
        model = MMVisionModel(self.model_tester.get_config())
        self.assertIsInstance(model.get_input_embeddings(), nn.Module)
        self.assertIsNone(model.get_output_embeddings())


class ConvInputs(VisionInputs):
    def get_config(self):
        stage = {"block": "inverted", "depth": 1, "channels": 8, "stride": 2, "expansion": 2}
        stem = {"channels": 8, "kernel_size": 3, "stride": 2}
        return MMConvConfig(image_size=16, stem=stem, stages=[stage, {**stage, "channels": 12}], head_channels=20)


@pytest.mark.slow
class ConvModelTest(Conformance, unittest.TestCase):
    all_model_classes = (MMConvModel,)
    inputs = ConvInputs
    test_resize_embeddings = False
    has_attentions = False

    @unittest.skip("ResNet does not support input and output embeddings")
    def test_model_get_set_embeddings(self):
        pass

    def test_hidden_states_output(self):  # as in ResNetModelTest: maps of the stem and of each stage
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        asked = copy.deepcopy(config)
        asked.output_hidden_states = True
        outputs = [MMConvModel(config)(**inputs, output_hidden_states=True), MMConvModel(asked)(**inputs)]
        for output in outputs:
            shapes = [tuple(state.shape[1:]) for state in output.hidden_states]
            self.assertEqual(shapes, [(8, 8, 8), (8, 4, 4), (12, 2, 2)])


class TextInputs:
    """Rows of unequal length; the last one is padded on the left."""

    batch_size, seq_length, is_training = 4, 7, True
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size = 32, 2, 4, TEXT["vocab_size"]
    text_config = {**TEXT, **ROPE}

    def get_config(self):
        return MMTextConfig(**self.text_config)

    def text(self):
        ids = ids_tensor([self.batch_size, self.seq_length], 96) + 3
        mask = torch.ones_like(ids)
        mask[-1, :2] = 0
        return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), self.text()


@pytest.mark.slow
class TextDecoderTest(Conformance, unittest.TestCase):
    all_model_classes = (MMTextModel,)
    inputs = TextInputs


class EncoderInputs(TextInputs):
    text_config = {**TEXT, **ROPE, "is_causal": False, "pooler": "cls_tanh"}


@pytest.mark.slow
class TextEncoderTest(Conformance, unittest.TestCase):
    all_model_classes = (MMTextModel,)
    inputs = EncoderInputs


# ---- the whole model and its heads ----------------------------------------------------------------------------------


class Inputs(TextInputs):
    """A text and a picture to each row; BERT's positions but where a test is about RoPE."""

    text_config = TEXT
    vision_model_tester = VisionInputs()

    def get_config(self):
        return MMConfig(vision_config=VISION, text_config=self.text_config)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {**self.text(), "pixel_values": pictures(self.batch_size)}


class Composite(Conformance):
    _is_composite = True
    inputs = Inputs

    def _media_config(self):
        """All kinds of media: the hooks below give those of one kind alone."""
        kinds = {"modalities": ["image", "video", "audio"], "audio_config": AUDIO}
        return MMConfig(vision_config=VISION, text_config=self.model_tester.text_config, **kinds)

    def _audio_features_prepare_config_and_inputs(self):
        return self._media_config(), {"input_features": floats_tensor([self.model_tester.batch_size, 1, 12, 8])}

    def _video_features_prepare_config_and_inputs(self):
        return self._media_config(), {"pixel_values_videos": pictures(self.model_tester.batch_size, 1, 2)}


class RopeInputs(Inputs):
    text_config = {**TEXT, **ROPE}


@pytest.mark.slow
class ModelTest(Composite, unittest.TestCase):
    all_model_classes = (MMModel,)
    inputs = RopeInputs


class ConditionalGenerationTest(Composite, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (MMForConditionalGeneration,)


@pytest.mark.slow
class SequenceClassificationTest(Composite, unittest.TestCase):
    all_model_classes = (MMForSequenceClassification,)


class BidirectionalInputs(Inputs):
    text_config = {**TEXT, "is_causal": False}


@pytest.mark.slow
class MaskedLMTest(Composite, unittest.TestCase):
    all_model_classes = (MMForMaskedLM,)
    inputs = BidirectionalInputs


@pytest.mark.slow
class ImageTextRetrievalTest(Composite, unittest.TestCase):
    all_model_classes = (MMForImageTextRetrieval,)


class PreTrainingInputs(Inputs):
    """All losses but "mlm", whose text is masked by the collator."""

    num_masks, mask_length = 5, 16

    def get_config(self):
        losses = {"itc": 1.0, "itm": 1.0, "lm": 1.0, "mim": 1.0}
        return MMConfig(vision_config=VISION, text_config=TEXT, pretraining_losses=losses)


@pytest.mark.slow
class PreTrainingTest(Composite, unittest.TestCase):
    all_model_classes = (MMForPreTraining,)
    inputs = PreTrainingInputs
