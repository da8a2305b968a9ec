"""model.encode: strings, paths, pictures, arrays and dicts to embeddings; which string is a path."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from comparing import close
from mm import MediaDecodeError, MMImageProcessorPil, MMProcessor
from mm.modeling_mm.tasks.pipelines import read_for_head
from mm.processing.media_kinds import encodable

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue cat dog on the mat".split()


@pytest.fixture(scope="module")
def finding(retriever):
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    processor = MMProcessor(
        MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, add_eos_token=True, num_frames=3
    )
    text = {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3}
    model = retriever(text_config=text, dtype=torch.float32, modalities=["image", "video"], max_images=3)
    model.__dict__["_read_processor"] = processor
    return model, processor


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, colour in {"a.png": "red", "b.jpg": "blue"}.items():
        Image.new("RGB", (20, 10), colour).save(name)
    return tmp_path


def test_every_kind_of_item_has_the_embedding_of_encode_image_or_encode_text(finding, pictures):
    model, processor = finding
    picture = Image.open("a.png")
    items = ["a.png", pictures / "b.jpg", picture, np.asarray(picture), "a red cat", {"text": "a.png"}]
    found = model.encode(items)
    seen = model.encode_image(**processor(images=["a.png", "b.jpg"], return_tensors="pt"))
    close(found[:2], seen)
    close(found[2:4], seen[:1].expand(2, -1))
    close(found[4], model.encode_text(processor(text="a red cat", return_tensors="pt").input_ids)[0])
    assert not torch.allclose(found[5], found[0], atol=1e-2)  # a text that looks like a path, said to be a text
    close(found.norm(dim=1), torch.ones(6))
    assert found.dtype == torch.float32


def test_an_item_has_the_same_embedding_in_any_company(finding, pictures):
    model, _ = finding
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    items = [
        "a red cat", "a.png", {"image": ["a.png", "b.jpg"]}, "a", {"image": "b.jpg", "text": "a blue dog on the mat"},
        {"video": frames}, "a blue dog on the mat", {"video": frames[:2]}, "b.jpg",
    ]  # fmt: skip
    alone = torch.stack([model.encode(item) for item in items])
    for size in (1, 2, 32):
        close(model.encode(items, batch_size=size), alone)
    both = alone[8] + alone[6]
    close(alone[4], both / both.norm())
    model.train()
    close(model.encode(items), alone)
    assert model.training
    model.eval()


def test_the_best_of_an_index_come_first(finding, pictures):
    model, _ = finding
    index = model.encode(["a.png", "b.jpg", "a cat", "the dog"])
    hits = model.search(["b.jpg", "the dog"], index, top_k=2)
    assert [hit[0]["index"] for hit in hits] == [1, 3] and all(len(hit) == 2 for hit in hits)
    assert hits[0][0]["score"] == pytest.approx(1, abs=1e-5)
    close(model.similarity(["a.png"], index), index[:1] @ index.T)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("gone.png", "no such file"),
        ("notes", "there is a file of that name"),
        ("cat.heic", "no such file"),
        ("a.png ", "no such file"),
        ("ftp://example.com/a", "link"),
        ("HTTPS://example.com/a", "link"),
        ("", "empty"),
        (" ", "empty"),
        ("https://example.com/a.png", "link"),
        ("data:image/png;base64,AAAA", "link"),
        ({"image": "a.png", "images": "b.jpg"}, "each once"),
        ({"picture": "a.png"}, "each once"),
        ({"image": []}, "empty list"),
        ({"text": None}, "holds nothing"),
        (np.zeros((2, 2, 2, 2)), "neither"),
    ],
)
def test_what_could_be_two_things_is_refused(pictures, item, words):
    (pictures / "notes").write_text("a note")
    with pytest.raises(ValueError, match=words):
        encodable(item)


def test_errors_name_the_item(finding, pictures):
    model, _ = finding
    with pytest.raises(ValueError, match=r"inputs\[1\].*no such file"):
        model.encode(["a cat", "gone.jpg"])
    with pytest.raises(TypeError, match=r"inputs\[0\].*bytes"):
        model.encode([b"a.png"])
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(MediaDecodeError):
        model.encode(["broken.png"])
    with pytest.raises(ValueError, match="batch_size"):
        model.encode(["a"], batch_size=0)
    assert model.encode([]).shape == (0, 12)


def test_what_search_and_similarity_do_not_read_is_refused(finding, pictures):
    model, _ = finding
    index = model.encode(["a.png", "b.jpg"])
    with pytest.raises(TypeError, match="topk"):
        model.search(index[0], index, topk=3)
    with pytest.raises(ValueError, match="graph"):
        model.search("a cat", index, approximate=True)
    for query in (index.numpy(), list(index)):
        with pytest.raises(TypeError, match="could be embeddings"):
            model.search(query, index)
        with pytest.raises(TypeError, match="could be embeddings"):
            model.similarity(query, index)
    for given in (index.numpy(), list(index), "index"):
        with pytest.raises(TypeError, match="MMIndex"):
            model.search("a cat", given)
    with pytest.raises(ValueError, match="finite"):
        model.search(index * torch.nan, index)


def test_a_long_text_is_cut_at_the_last_position_if_asked(finding):
    model, _ = finding
    text = "a cat " * model.config.text_config.max_position_embeddings
    with pytest.raises(ValueError, match="token|position"):
        model.encode(text)
    close(model.encode(text, truncation=True), model.encode(text + "a dog", truncation=True))


def test_labels_that_are_one_but_for_blanks_are_refused(finding):
    with pytest.raises(ValueError, match="twice"):
        finding[0].encode_labels(["cat", "cat "])
    with pytest.raises(ValueError, match="list of texts"):
        finding[0].encode_labels(["cat", " "])


def test_strings_that_are_no_file_and_no_link_are_texts():
    for text in ("a cat.", "a cat", "e.g. a cat", "3.5", "what is in it? it...", "a cat, cut at 1.5"):
        assert encodable(text) == ({}, text)
    assert encodable({"text": "cat.heic"}).text == "cat.heic"


def test_a_head_reads_a_text_whole(finding):
    model, processor = finding
    read = read_for_head(model, processor, "a red cat")
    assert torch.equal(read["input_ids"], processor(text="a red cat", return_tensors="pt")["input_ids"])
    assert read["input_ids"][0, -1] == 3  # closed, as in training
