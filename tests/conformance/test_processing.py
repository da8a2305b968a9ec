"""ProcessorTesterMixin over MMProcessor."""

# The upstream package is made at run time, from an sdist.
# pyright: reportMissingImports=false

import unittest

from transformers import BertTokenizer, WhisperFeatureExtractor
from upstream.test_processing_common import ProcessorTesterMixin

from mm import MMImageProcessorPil, MMProcessor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] lower newer low er ##er upper older longer string test a the".split()


# What MMProcessor does in its own way; README.md says why.
OWN_WAY = {
    "options of the call have names and defaults, so that a wrong one is refused by name": [
        "test_call_arguments_default_none",
        "test_call_arguments_not_in_attributes",
        "test_call_arguments_not_in_processor_kwargs",
        "test_init_arguments_not_in_class_attributes",
        "test_init_arguments_not_in_processor_kwargs",
    ],
    "an image processor takes no attribute that is not an option of it": ["test_args_overlap_kwargs"],
    "an open prompt has no closing token, and rows are padded to the longest": [
        "test_subprocessor_defaults_0_text",
        "test_subprocessor_defaults_preserved_by_kwargs_0_images",
        "test_subprocessor_defaults_preserved_by_kwargs_2_audio",
    ],
    "videos are always sampled, so do_sample_frames=False is refused": [
        "test_flat_kwarg_applied_when_modality_dict_lacks_it",
        "test_model_input_names",
        "test_processor_with_multiple_inputs",
    ],
    "a sound comes with its rate, which a feature extractor alone does not read": [
        "test_subprocessor_defaults_3_audio",
    ],
}


class ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MMProcessor

    @classmethod
    def _setup_tokenizer(cls):
        return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})

    @classmethod
    def _setup_image_processor(cls):
        return MMImageProcessorPil(size={"height": 18, "width": 18})

    @classmethod
    def _setup_feature_extractor(cls):
        return WhisperFeatureExtractor(feature_size=8, n_fft=64, hop_length=32, chunk_length=1)

    def prepare_audio_inputs(self, batch_size: int | None = None):
        """An array has no rate of its own, so each comes with one."""
        sounds = super().prepare_audio_inputs(batch_size)
        return [{"array": sound, "sampling_rate": 16000} for sound in sounds]


for reason, names in OWN_WAY.items():
    for name in names:
        setattr(ProcessorTest, name, unittest.skip(reason)(getattr(ProcessorTest, name)))
