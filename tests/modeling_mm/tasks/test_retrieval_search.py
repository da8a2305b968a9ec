"""MMForImageTextRetrieval: search by embeddings and then by matching, and what it refuses in words."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch

from comparing import close
from mm import MMForImageTextRetrieval, MMForPreTraining
from mm.modeling_mm.fusion.context import select_contexts

FUSIONS = ["cross_attention", "co_attention", "merged", "concat", "sum", "gated"]
IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2], [1, 5, 8, 2], [1, 9, 9, 9], [1, 3, 5, 7]])
INDEX = torch.tensor([0, 0, 1, 2, 2, 2])


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_search_is_by_similarity_then_by_matching(retriever):
    model = retriever()
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(7, 3, 16, 16, generator=generator, dtype=torch.float64)
    texts, images = model.encode_text(IDS), model.encode_image(pixels)
    found = model.retrieve(texts, images, top_k=3, batch_size=4)
    order = (texts @ images.T).argsort(1, descending=True)[:, :3]
    assert torch.equal(found.indices, order) and found.itm_scores is None
    close(found.scores, (texts @ images.T).gather(1, order))

    context = model.encode_context(pixel_values=pixels)
    rerank = {"input_ids": IDS, "encoder_outputs": context}
    for batch_size in (1, 5, 64):
        again = model.retrieve(texts, images, top_k=3, rerank=rerank, batch_size=batch_size)
        for row in range(len(IDS)):
            near = select_contexts(context, again.indices[row])
            logits = model.match(IDS[row : row + 1].repeat(3, 1), encoder_outputs=near)
            close(again.itm_scores[row], (logits[:, 1] - logits[:, 0]).detach())
            assert set(again.indices[row].tolist()) == set(order[row].tolist())
        assert (again.itm_scores.diff(dim=1) <= 0).all()
        close(again.scores, (texts @ images.T).gather(1, again.indices))
    both = model.retrieve(texts, images, top_k=3, rerank={**rerank, "order": "itm+itc"})
    assert (both.itm_scores + model.itc_head.scale() * both.scores).diff(dim=1).max() <= 0
    assert not torch.equal(both.indices, again.indices)
    close(both.itm_scores.sort(1).values, again.itm_scores.sort(1).values)
    back = model.retrieve(images, texts, top_k=20, rerank=rerank)
    assert back.indices.shape == (7, 6)
    with pytest.raises(ValueError, match="accepted: itm, itm"):
        model.retrieve(texts, images, rerank={**rerank, "order": "itc"})


def test_matching_learns_pairs_by_heart_and_a_rerank_finds_them(retriever):
    """All of twelve pictures among all of twelve texts, by matching alone."""
    generator = torch.Generator().manual_seed(0)
    ids, tokens = torch.randint(3, 50, (12, 4), generator=generator), torch.randn(12, 4, 24, generator=generator)
    model = retriever(vision_config={"pooler": "mean"}).float().train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(input_ids=ids, visual_embeds=tokens).loss.backward()
        optimizer.step()
    context, places = model.eval().encode_context(visual_embeds=tokens), torch.arange(12)
    rerank = {"input_ids": ids, "encoder_outputs": context, "query": "text"}
    anything = torch.ones(12, 2)  # embeddings that say nothing
    assert torch.equal(model.retrieve(anything, anything, top_k=12, rerank=rerank).indices[:, 0], places)


def test_as_many_queries_as_index_must_say_which_side_they_are(retriever, pixels):
    model = retriever()
    texts, images = model.encode_text(IDS[:3]), model.encode_image(pixels)
    rerank = {"input_ids": IDS[:3], "encoder_outputs": model.encode_context(pixel_values=pixels)}
    with pytest.raises(ValueError, match="say rerank"):
        model.retrieve(texts, images, rerank=rerank)
    of_texts = model.retrieve(texts, images, rerank={**rerank, "query": "text"})
    of_images = model.retrieve(images, texts, rerank={**rerank, "query": "image"})
    by_text = torch.zeros(3, 3, dtype=torch.float64).scatter(1, of_texts.indices, of_texts.itm_scores)
    by_image = torch.zeros(3, 3, dtype=torch.float64).scatter(1, of_images.indices, of_images.itm_scores)
    close(by_text, by_image.T)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to compare"),
        ({"input_ids": IDS, "return_loss": True}, "a loss compares media with texts"),
        ({"pixel_values": "pixels", "attention_mask": IDS}, "attention_mask was given without a text"),
        ({"input_ids": IDS[:4], "pixel_values": "pixels", "return_loss": True}, "4 text rows and 3 contexts"),
        ({"input_ids": IDS, "pixel_values": "pixels", "matches": torch.ones(6).long()}, "pass return_loss=True"),
        (
            {"input_ids": IDS, "pixel_values": "pixels", "matches": torch.ones(3).long(), "return_loss": True},
            r"matches must be int64 \(6,\)",
        ),
    ],
)
def test_bad_inputs_are_refused_in_words(retriever, pixels, given, message):
    given = {name: pixels if isinstance(value, str) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        retriever()(**given)


def test_arguments_of_other_heads_are_refused_by_name(retriever, pixels):
    with pytest.raises(TypeError, match="no argument 'match' .*'matches'"):
        retriever()(input_ids=IDS, pixel_values=pixels, match=None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("inputs_embeds", "negatives are sent as ids; pass input_ids"),
        ("context_input_ids", "pass one text, as input_ids"),
        ("media_index", "pass one text, as input_ids"),
        ("context_ranges", "its whole context"),
        ("labels", "names of their own: matches"),
    ],
)
@pytest.mark.parametrize("cls", [MMForImageTextRetrieval, MMForPreTraining])
def test_inputs_of_other_classes_are_refused_with_the_reason(tiny_model, pixels, cls, name, reason):
    model = tiny_model(cls=cls, projection_dim=12)
    with pytest.raises(TypeError, match=f"no argument '{name}': .*{reason}"):
        model(input_ids=IDS, pixel_values=pixels, **{name: IDS})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": {"pooler": "none"}}, "text_config.pooler='none' leaves no vector"),
        ({"vision_config": {"pooler": "none"}}, "vision_config.pooler='none' leaves no vector"),
        ({"pretraining_losses": {"itm": 1.0}}, "must name 'itc'"),
        ({"fusion_type": "decision", "pretraining_losses": {"itc": 1.0, "itm": 1.0}}, "leave 'itm' out"),
        ({"projected_sides": ["text"], "projection_dim": 7}, "leaves 'vision' .* projection_dim="),
        ({"itm_bos_token_id": 50}, r"itm_bos_token_id=50 is outside the vocabulary 0\.\.49"),
        ({"itm_bos_token_id": 5, "pretraining_losses": {"itc": 1.0}}, "'itm', which .* leave it out"),
    ],
)
def test_configurations_that_cannot_compare_are_refused(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message):
        MMForImageTextRetrieval(tiny_config(**fields))


def test_a_head_without_matching_says_so(retriever, pixels):
    with pytest.raises(ValueError, match="no matching head"):
        retriever(pretraining_losses={"itc": 1.0}).match(IDS[:3], pixel_values=pixels)
