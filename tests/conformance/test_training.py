"""TrainingTesterMixin over MMForConditionalGeneration: one batch learnt by heart, and written again by generate()."""

# The upstream package is made at run time, from an sdist.

import unittest

import pytest
from upstream.test_training_mixin import TrainingTesterMixin  # pyright: ignore[reportMissingImports]

from mm import MMConfig, MMForConditionalGeneration

STACK = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


class Inputs:
    """A text alone: the batch of the mixin has no pictures."""

    is_training = True
    causal_lm_class = MMForConditionalGeneration

    def get_config(self):
        text = {**STACK, "vocab_size": 110, "max_position_embeddings": 80, "pad_token_id": 0}
        config = MMConfig(vision_config={**STACK, "image_size": 16, "patch_size": 4}, text_config=text)
        config.vocab_size = config.text_config.vocab_size  # where the mixin looks for it
        return config

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"input_ids": None}


@pytest.mark.slow
class ConditionalGenerationTrainingTest(TrainingTesterMixin, unittest.TestCase):
    all_model_classes = (MMForConditionalGeneration,)
    model_tester = Inputs()
