"""ConfigTester over every configuration of MM."""

# The upstream package is made at run time, from an sdist.

import unittest

from upstream.test_configuration_common import ConfigTester  # pyright: ignore[reportMissingImports]

from mm import MMConfig, MMConvConfig, MMResamplerConfig, MMTextConfig, MMVisionConfig

SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")


class ConfigurationTest(unittest.TestCase):
    def setUp(self):
        self.model_tester = self

    def get_config(self):
        """A composite one, of other values than the defaults."""
        return MMConfig(
            label_smoothing=0.2,
            text_config={"vocab_size": 200, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2},
        )

    def check(self, config_class, properties, has_text=False, **fields):
        ConfigTester(self, config_class, has_text, list(properties), **fields).run_common_tests()

    def test_of_the_whole_model(self):
        self.check(MMConfig, ["fusion_type", "modalities", "projection_dim"], label_smoothing=0.1)

    def test_of_the_text_stack(self):
        self.check(MMTextConfig, SIZES, has_text=True, hidden_size=36)

    def test_of_the_vision_tower(self):
        self.check(MMVisionConfig, SIZES, hidden_size=48)

    def test_of_the_convolutional_tower(self):
        self.check(MMConvConfig, ["hidden_size", "image_size", "stages"], head_channels=32)

    def test_of_the_resampler(self):
        self.check(MMResamplerConfig, SIZES, hidden_size=48)
