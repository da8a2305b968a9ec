"""ImageProcessingTestMixin over MMImageProcessorPil and, where torchvision is (`make test-newest`), its twin."""

# The upstream package is made at run time, from an sdist.

import unittest

from transformers.utils.import_utils import is_torchvision_available
from upstream.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin  # pyright: ignore[reportMissingImports]

from mm import MMImageProcessor, MMImageProcessorPil


class Pictures(ImageProcessingTester):
    def __init__(self, parent):
        size = {"height": 18, "width": 18}
        super().__init__(parent, batch_size=3, size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)

    def _get_image_processing_classes(self):
        twin = {"torchvision": MMImageProcessor} if is_torchvision_available() else {}
        return {"pil": MMImageProcessorPil, **twin}


class ImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = Pictures

    @unittest.skip("MMImageProcessorPil does not support 4 channels")  # as in BlipImageProcessingTest
    def test_call_numpy_4_channels(self):
        pass

    @unittest.skipUnless(is_torchvision_available(), "the twin on torchvision is tested where torchvision is")
    def test_new_models_require_torchvision_backend(self):
        super().test_new_models_require_torchvision_backend()
