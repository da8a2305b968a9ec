"""explain of classes and pairs: only what can change the number counts, with every fusion."""

import numpy as np
import pytest
import torch

import mm
from mm.configuration.checks.fields import REPRESENTATION_FUSIONS


def one_patch(pictures: torch.Tensor, count: int = 2) -> torch.Tensor:
    """Pictures of their mean colour but for the lower right quarter."""
    pixels = torch.zeros_like(pictures[:count])
    half = pixels.shape[-1] // 2
    pixels[..., half:, half:] = pictures[:count, ..., half:, half:]
    return pixels


def check(explained, method):
    """Only the lower right quarter has weight, and with squares of two parts those beside it. A part may also speak
    against a number, so not each has some."""
    weights = np.concatenate([item.weights for one in explained for item in one.items])
    half = weights.shape[-1] // 2
    assert (weights >= 0).all() and weights[:, half:, half:].max() > 1e-6
    far = half - 1 if method == "occlusion" else half
    assert max(weights[:, :far].max(), weights[:, :, :far].max()) < 1e-9


LABELS = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
@pytest.mark.parametrize("fusion", ["cross_attention", "merged", "co_attention", *REPRESENTATION_FUSIONS, "decision"])
def test_a_class_comes_from_the_only_part_that_can_change_it(tiny_model, pictures, fusion, method):
    model = tiny_model(cls=mm.MMForSequenceClassification, fusion_type=fusion, **LABELS)
    inputs = {"pixel_values": one_patch(pictures).double(), "input_ids": torch.tensor([[1, 5, 6], [1, 7, 8]])}
    explained = [model.explain(inputs, target, method=method) for target in ("cat", "dog", "bird")]
    assert [one.words for row in explained for one in row] == [["cat"]] * 2 + [["dog"]] * 2 + [["bird"]] * 2
    check([one for row in explained for one in row], method)


def test_without_a_target_the_most_likely_class_is_explained_and_without_a_text_each_picture(tiny_model, pictures):
    model = tiny_model(cls=mm.MMForSequenceClassification, fusion_type="gated", **LABELS)
    inputs = {"pixel_values": pictures.double()}
    likely = model(**inputs).logits.argmax(1).tolist()
    found = model.explain(inputs)
    assert [one.words for one in found] == [[LABELS["id2label"][number]] for number in likely]
    same = model.explain(inputs, likely)
    assert all(np.array_equal(a.items[1].weights, b.items[1].weights) for a, b in zip(found, same, strict=True))
    assert found[0].maps.shape == (1, 16, 16) and np.isclose(found[0].maps.sum(), 1)


@pytest.mark.parametrize("target", ["similarity", "match"])
@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_a_pair_comes_from_the_only_part_that_can_change_it(retriever, pictures, target, method):
    model = retriever(pretraining_losses={"itc": 1.0, "itm": 1.0})
    inputs = {"pixel_values": one_patch(pictures).double()}
    texts = torch.arange(3, 15).view(6, 2)
    explained = model.explain({**inputs, "input_ids": texts}, target, method=method)
    assert len(explained) == 6 and explained[0].words == [target]
    check(explained, method)
    some = {**inputs, "input_ids": texts[[4]], "context_index": torch.tensor([1])}
    (alone,) = model.explain(some, target, method=method)
    np.testing.assert_allclose(alone.items[0].weights, explained[4].items[0].weights, atol=1e-6)


def test_occlusion_of_a_class_is_what_its_logit_loses(tiny_model, pictures):
    model = tiny_model(cls=mm.MMForSequenceClassification, fusion_type="gated", **LABELS)
    pixels = pictures[:1].double()
    changed = pixels.repeat(4, 1, 1, 1, 1)
    for one, (top, left) in zip(changed, ((0, 4), (0, 6), (2, 4), (2, 6)), strict=True):
        one[1, :, top : top + 4, left : left + 4] = 0  # what covers the part (1, 3) of 8 x 8, in the second picture
    with torch.no_grad():
        lost = (model(pixel_values=pixels).logits - model(pixel_values=changed).logits).mean(0, keepdim=True)
    for label in range(3):
        (found,) = model.explain({"pixel_values": pixels}, label)
        np.testing.assert_allclose(found.items[1].weights[0, 1, 3], max(float(lost[0, label]), 0), atol=1e-6)


def test_other_input_is_an_error_in_words(tiny_model, retriever, pictures):
    classifier = tiny_model(cls=mm.MMForSequenceClassification, fusion_type="gated", **LABELS)
    inputs = {"pixel_values": pictures.double()}
    for targets, words in (("cow", "cow.*cat"), (3, "no label"), (["cat"], "3 rows")):
        with pytest.raises(ValueError, match=words):
            classifier.explain(inputs, targets)
    with pytest.raises(ValueError, match="attention.*gated.*occlusion"):
        classifier.explain(inputs, method="attention")
    with pytest.raises(ValueError, match="rollout.*grad"):
        classifier.explain(inputs, method="rollout")
    with pytest.raises(ValueError, match="layers"):
        classifier.explain(inputs, layers=0)
    with pytest.raises(ValueError, match="similarity|two vectors"):
        retriever().explain({**inputs, "input_ids": torch.ones(3, 2, dtype=torch.long)}, method="grad")
    with pytest.raises(ValueError, match="4 texts for 3 contexts"):
        classifier.explain({**inputs, "input_ids": torch.ones(4, 2, dtype=torch.long)})
    with pytest.raises(ValueError, match="input_ids"):
        retriever().explain(inputs)
    with pytest.raises(ValueError, match="'similarity' or 'match'"):
        retriever().explain({**inputs, "input_ids": torch.ones(3, 2, dtype=torch.long)}, "other")


@pytest.mark.parametrize("tower", ["whisper", "ast"])
def test_sounds_and_texts_contribute_without_pictures(tiny_model, clips, tower):
    model = tiny_model(
        cls=mm.MMForSequenceClassification, fusion_type="concat", modalities=["audio"], audio_config=tower, **LABELS
    )
    sounds, texts = clips(tower)[:2], torch.tensor([[1, 5, 6], [1, 7, 8]])
    inputs = {"input_features": sounds, "input_ids": texts}
    mask = torch.zeros(2, 2, dtype=torch.bool)
    with torch.no_grad():
        whole = model(**inputs).logits[:, 1]
        nothing = model(
            input_features=sounds, input_features_mask=mask, input_ids=texts, attention_mask=torch.zeros_like(texts)
        ).logits[:, 1]
    for method in ("occlusion", "integrated_gradients"):
        found = model.explain(inputs, "dog", method=method)
        for row, one in enumerate(found):
            assert one.items == [] and set(one.contributions) == {"audio", "text"} == set(one.shares)
            assert abs(one.contributions["audio"][0]) > 1e-4
            total = float(sum(value[0] for value in one.contributions.values()))
            np.testing.assert_allclose(total, float(whole[row] - nothing[row]), atol=1e-5)
    with pytest.raises(ValueError, match="contributions"):
        found[0].maps  # noqa: B018
    with pytest.raises(ValueError, match="concat.*occlusion.*contributions") as told:
        model.explain(inputs, "dog", method="attention")
    assert "integrated_gradients" not in str(told.value)


def test_a_pair_with_a_sound_has_its_contribution(retriever, clips):
    model = retriever("none", modalities=["audio"], audio_config="whisper")
    inputs = {"input_features": clips("whisper")[:2], "input_ids": torch.tensor([[1, 5, 6], [1, 7, 8]])}
    for one in model.explain(inputs):
        assert one.items == [] and abs(one.contributions["audio"][0]) > 1e-4


def test_features_of_clap_may_come_without_the_dimension_of_the_sounds(tiny_model):
    """One sound of CLAP is four spectrograms where it joins several, (4, frames, bands)."""
    clap = {
        "model_type": "clap_audio_model", "enable_fusion": True, "num_mel_bins": 8, "spec_size": 32,
        "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16,
        "window_size": 4,
    }  # fmt: skip
    model = tiny_model(
        cls=mm.MMForSequenceClassification, fusion_type="concat", modalities=["audio"], audio_config=clap, **LABELS
    )
    sounds = torch.randn(2, 4, 128, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = torch.tensor([[1, 5, 6], [1, 7, 8]])
    without, given = (
        model.explain({"input_features": values, "input_ids": ids}, "dog") for values in (sounds, sounds[:, None])
    )
    for one, other in zip(without, given, strict=True):
        assert abs(one.contributions["audio"][0]) > 1e-6
        np.testing.assert_allclose(one.contributions["audio"], other.contributions["audio"], atol=1e-6)
