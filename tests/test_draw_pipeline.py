"""pipeline("mm-text-to-image"): pictures of texts, from a folder or of a model, one text or many."""

import pytest
from transformers import pipeline

from mm import MMForMaskedLM
from small_drawer import NAMES, small_drawer, small_processor


@pytest.fixture(scope="module", params=["order", "parallel"])
def folder(request, tmp_path_factory):
    folder, processor = tmp_path_factory.mktemp(request.param), small_processor()
    model = small_drawer(processor, **({"cls": MMForMaskedLM} if request.param == "parallel" else {}))
    for part in (model, processor):
        part.save_pretrained(folder)
    return folder


def test_texts_become_pictures_in_any_batch(folder):
    drawer = pipeline("mm-text-to-image", model=str(folder))
    settings = {"num_return_sequences": 2, "guidance_scale": 2.0, "seed": 3}
    inputs = drawer.processor(text=NAMES[:3], return_tensors="pt")
    expected = drawer.processor.decode_images(drawer.model.draw(**inputs, **settings))
    for found in (drawer(NAMES[:3], **settings), drawer(NAMES[:3], **settings, batch_size=2)):
        flat = [one["image"] for each in found for one in each]
        assert [one.tobytes() for one in flat] == [one.tobytes() for one in expected]
    one = drawer(NAMES[1], **settings)
    assert [found["image"].tobytes() for found in one] == [one.tobytes() for one in expected[2:4]]
    assert one[0]["image"].size == (8, 8) and one[0]["image"].mode == "RGB"


def test_what_is_no_text_and_no_drawer_is_told(folder):
    drawer = pipeline("mm-text-to-image", model=str(folder))
    with pytest.raises(TypeError, match="a string or a list of strings"):
        drawer([3])
    with pytest.raises(ValueError, match="list of inputs is empty"):
        drawer([])
    plain = small_processor(image_tokenizer=None)
    with pytest.raises(ValueError, match="has no image_tokenizer"):
        pipeline("mm-text-to-image", model=drawer.model, processor=plain)
    words = small_drawer(drawer.processor, type(drawer.model), drawing={})
    with pytest.raises(ValueError, match="does not draw"):
        pipeline("mm-text-to-image", model=words, processor=drawer.processor)
    moved = small_processor(drawing={**drawer.processor.drawing, "first_id": 18})
    with pytest.raises(ValueError, match="its processor has its codes at"):
        pipeline("mm-text-to-image", model=drawer.model, processor=moved)
