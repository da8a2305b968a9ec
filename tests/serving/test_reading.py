"""What a server reads of texts, by the processor of its model."""

import torch
from transformers import BertTokenizer

import mm
from mm.serving.reading import Reader


def test_texts_that_are_compared_are_closed_and_joined_in_a_batch(retriever):
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(45))]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    pictures = mm.MMImageProcessorPil(size={"height": 16, "width": 16})
    processor = mm.MMProcessor(pictures, tokenizer, add_eos_token=True)
    model = retriever()
    reader = Reader(model, processor, None)
    reads = [reader.whole_text(text) for text in ("w1 w2 w3", "w4")]
    assert reads[0].rows["input_ids"].tolist() == [[1, 6, 7, 8, 2]]
    assert {*reads[0].rows} == {"input_ids", "attention_mask"}
    inputs = reader.inputs(reads)
    alone = [model.encode_text(**read.rows) for read in reads]
    torch.testing.assert_close(model.encode_text(**inputs), torch.cat(alone), rtol=1e-5, atol=1e-5)
