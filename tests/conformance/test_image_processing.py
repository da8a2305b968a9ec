"""ImageProcessingTestMixin over MMImageProcessorPil."""

# The upstream package is made at run time, from an sdist.
# pyright: reportMissingImports=false

import unittest

from upstream.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from mm import MMImageProcessorPil


class Pictures(ImageProcessingTester):
    def __init__(self, parent):
        size = {"height": 18, "width": 18}
        super().__init__(parent, batch_size=3, size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)

    def _get_image_processing_classes(self):
        return {"pil": MMImageProcessorPil}


class ImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = Pictures

    @unittest.skip("MMImageProcessorPil does not support 4 channels")  # as in BlipImageProcessingTest
    def test_call_numpy_4_channels(self):
        pass

    @unittest.skip("the twin on torchvision is tested where torchvision is installed")
    def test_new_models_require_torchvision_backend(self):
        pass

    @unittest.skip("pictures are always read as RGB, so do_convert_rgb=False is refused")
    def test_image_processor_from_dict_with_kwargs_has_attributes(self):
        pass
