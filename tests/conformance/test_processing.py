"""ProcessorTesterMixin over MMProcessor: with a tokenizer of a decoder, and with BERT's, which closes its texts."""

# The upstream package is made at run time, from an sdist.

import unittest

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerFast, WhisperFeatureExtractor
from upstream.test_processing_common import ProcessorTesterMixin  # pyright: ignore[reportMissingImports]

from mm import MMImageProcessorPil, MMProcessor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] <s> lower newer low er ##er upper older longer string test a the is It".split()
CHAT = (
    "{% for message in messages %}{{ message['role'] }} : {% for block in message['content'] or [] %}"
    "{{ block['text'] if block['type'] == 'text' else '' }}{% endfor %}"
    "{% for call in message['tool_calls'] or [] %}{{ call['function']['name'] }}{% endfor %}"
    "{% if not loop.last %} {% endif %}{% endfor %}{% if add_generation_prompt %} assistant :{% endif %}"
)


class ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MMProcessor

    @classmethod
    def _setup_tokenizer(cls):
        words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 5)])
        tokens = {"bos_token": "<s>", "eos_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
        return PreTrainedTokenizerFast(tokenizer_object=words, **tokens)

    @classmethod
    def _setup_image_processor(cls):
        return MMImageProcessorPil(size={"height": 18, "width": 18})

    @classmethod
    def _setup_feature_extractor(cls):
        return WhisperFeatureExtractor(feature_size=8, n_fft=64, hop_length=32, chunk_length=1)

    @staticmethod
    def prepare_processor_dict():
        return {"chat_template": CHAT}

    def test_subprocessor_defaults_3_audio(self):
        """Clips are nested by sample: (B, A, ...) where the extractor gives (n, ...)."""
        extractor, sounds = self.get_component("feature_extractor"), self.prepare_audio_inputs()
        given = self.get_processor()(audio=sounds, return_tensors="pt").input_features
        expected = extractor(sounds, sampling_rate=extractor.sampling_rate, return_tensors="pt").input_features
        torch.testing.assert_close(given[:, 0], expected)


@pytest.mark.slow
class ClosingProcessorTest(ProcessorTest):
    """BERT's tokenizer closes every text; so does a processor that is told to."""

    @classmethod
    def _setup_tokenizer(cls):
        return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})

    @staticmethod
    def prepare_processor_dict():
        return {"chat_template": CHAT, "add_eos_token": True}
