"""Labels of conversations are exactly the assistant's tokens and its ends of turns, in ten formats of chats.

Each format is written here from its documented order of tokens; `says` is what has to be learned of it.
"""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mm import MMProcessor, chat_inputs

SPECIAL = (
    "<|im_start|> <|im_end|> <|start_header_id|> <|end_header_id|> <|eot_id|> [INST] [/INST] <start_of_turn> "
    "<end_of_turn> <|user|> <|assistant|> <|end|> <|system|> <end_of_utterance> <|start_of_role|> <|end_of_role|>"
).split()
WORDS = (
    "<pad> <s> </s> <unk> user assistant model USER: ASSISTANT: User: Assistant: hi what is it ? a cat dog and".split()
)


def turns(user: str, assistant: str, ask: str) -> str:
    """A template of what stands around a user's and an assistant's words, and of what asks for an answer."""
    return (
        "{% for m in messages %}{% if m['role'] == 'user' %}" + user.replace("@", "{{ m['content'] }}")
        + "{% else %}" + assistant.replace("@", "{{ m['content'] }}")
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}" + ask + "{% endif %}"
    )  # fmt: skip


FORMATS = {
    "chatml": (turns("<|im_start|> user\n@ <|im_end|>\n", "<|im_start|> assistant\n@ <|im_end|>\n",
                     "<|im_start|> assistant\n"), "<|im_end|>"),
    "llama 3": (turns("<|start_header_id|> user <|end_header_id|>\n\n@ <|eot_id|>",
                      "<|start_header_id|> assistant <|end_header_id|>\n\n@ <|eot_id|>",
                      "<|start_header_id|> assistant <|end_header_id|>\n\n"), "<|eot_id|>"),
    "mistral": (turns("[INST] @ [/INST] ", "@ </s> ", ""), "</s>"),
    "gemma": (turns("<start_of_turn> user\n@ <end_of_turn>\n", "<start_of_turn> model\n@ <end_of_turn>\n",
                    "<start_of_turn> model\n"), "<end_of_turn>"),
    "vicuna": (turns("USER: @ ", "ASSISTANT: @ </s> ", "ASSISTANT: "), "</s>"),
    "zephyr": (turns("<|user|>\n@ </s>\n", "<|assistant|>\n@ </s>\n", "<|assistant|>\n"), "</s>"),
    "phi 3": (turns("<|user|>\n@ <|end|>\n", "<|assistant|>\n@ <|end|>\n", "<|assistant|>\n"), "<|end|>"),
    "idefics": (turns("User: @ <end_of_utterance>\n", "Assistant: @ <end_of_utterance>\n", "Assistant: "),
                "<end_of_utterance>"),
    "granite": (turns("<|start_of_role|> user <|end_of_role|> @ </s>\n",
                      "<|start_of_role|> assistant <|end_of_role|> @ </s>\n",
                      "<|start_of_role|> assistant <|end_of_role|> "), "</s>"),
    "plain": (turns("User: @\n", "Assistant: @\n", "Assistant: "), None),
}  # fmt: skip
CHATS = [
    [("user", "what is it ?"), ("assistant", "a cat"), ("user", "and it ?"), ("assistant", "a dog is a dog")],
    [("user", "hi"), ("assistant", "hi")],
]


def messages(chat) -> list[dict]:
    return [{"role": role, "content": content} for role, content in chat]


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(tokenizer_object=words, **ends)
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    return made


@pytest.mark.parametrize("name", FORMATS)
def test_the_loss_is_on_the_assistants_tokens_alone(tokenizer, name):
    template, end = FORMATS[name]
    processor = MMProcessor(tokenizer=tokenizer, chat_template=template)
    given = chat_inputs(processor, [messages(chat) for chat in CHATS])
    for chat, ids, labels in zip(CHATS, given["input_ids"], given["labels"], strict=True):
        says = [
            word for role, text in chat if role == "assistant" for word in [*text.split(), *([end] if end else [])]
        ]
        learned = [label for label in labels if label != -100]
        assert tokenizer.convert_ids_to_tokens(learned) == says
        assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))


def test_a_chat_without_an_answer_is_refused(tokenizer):
    processor = MMProcessor(tokenizer=tokenizer, chat_template=FORMATS["chatml"][0])
    with pytest.raises(ValueError, match="assistant"):
        chat_inputs(processor, [messages([("user", "hi")])])


def test_a_template_that_changes_earlier_turns_is_refused(tokenizer):
    last = "{% for m in messages %}{% if loop.last %}{{ m['content'] }}{% endif %}{% endfor %}"
    processor = MMProcessor(tokenizer=tokenizer, chat_template=last)
    with pytest.raises(ValueError, match="chat template"):
        chat_inputs(processor, [messages(CHATS[0])])


def test_special_tokens_that_are_written_in_a_message_stay_text(tokenizer):
    processor = MMProcessor(tokenizer=tokenizer, chat_template=FORMATS["chatml"][0])
    chat = messages([("user", "what <|im_end|> ?"), ("assistant", "a <|im_end|> cat")])
    given = chat_inputs(processor, [chat], return_tensors="pt")
    learned = [token for token in given["labels"][0].tolist() if token != -100]
    assert tokenizer.convert_ids_to_tokens(learned) == ["a", "<unk>", "cat", "<|im_end|>"]
