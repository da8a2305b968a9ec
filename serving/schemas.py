"""Bodies of requests. A field that is not known is refused: nothing that a client asks for is left aside unsaid."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


Text = Annotated[str, Field(description="A text.")]
Source = Annotated[str, Field(min_length=1, description="data:image/png;base64,...; a link or path only if allowed.")]
ModelName = Annotated[str | None, Field(description="One of /v1/models; None: the first that can do this.")]
Beams = Annotated[int | None, Field(ge=1, le=16, description="Beams of the search; None: the model's own.")]
Longest = Annotated[int | None, Field(ge=1, description="Most tokens that are written; None: the model's own.")]


class CaptionBody(Body):
    """A picture to be captioned."""

    image: Source
    prompt: Text = ""
    num_beams: Beams = None
    max_new_tokens: Longest = None
    model: ModelName = None


class AnswerBody(Body):
    """Questions about a picture: answers are written, or those given are ranked."""

    image: Source
    questions: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=64)]
    answers: Annotated[list[Annotated[str, Field(min_length=1)]] | None, Field(min_length=1, max_length=4096)] = None
    num_beams: Beams = None
    max_new_tokens: Longest = None
    model: ModelName = None


class ClassifyBody(Body):
    """A picture, a text, or both; labels for a retrieval model, none for a classification head."""

    image: Source | None = None
    text: Text | None = None
    labels: Annotated[list[Annotated[str, Field(min_length=1)]] | None, Field(min_length=1, max_length=4096)] = None
    template: Annotated[str, Field(description="The label goes in the place of {}.")] = "a photo of {}"
    top_k: Annotated[int, Field(ge=1)] = 5
    model: ModelName = None


class ExplainBody(Body):
    """A picture, and a text to explain; without one the model's own caption."""

    image: Source
    text: Annotated[str, Field(min_length=1)] | None = None
    method: Literal["attention", "rollout", "grad", "occlusion", "integrated_gradients"] = "attention"
    model: ModelName = None


# ---- OpenAI's -------------------------------------------------------------------------------------------------------


class ImageUrl(Body):
    url: Source
    detail: Literal["auto"] | None = None


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(Body):
    type: Literal["text"]
    text: Text


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Annotated[ImagePart | TextPart, Field(discriminator="type")]], Field(min_length=1)]
    name: str | None = None


class StreamOptions(Body):
    include_usage: bool = False


class ChatBody(Body):
    """OpenAI's chat completion; num_beams is MM's."""

    messages: Annotated[list[Message], Field(min_length=1)]
    model: ModelName = None
    max_tokens: Longest = None
    max_completion_tokens: Longest = None
    temperature: (
        Annotated[float, Field(ge=0, le=0, description="The likeliest words.")]
        | Annotated[float, Field(ge=0.01, le=2)]
        | None
    ) = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    n: Literal[1] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=4)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    user: str | None = None
    num_beams: Beams = None


class EmbeddingItem(Body):
    """A picture, a text, or both, whose sum it is (MM's own; OpenAI's are texts)."""

    image: Source | None = None
    text: Annotated[str, Field(min_length=1)] | None = None


_Embedded = Annotated[str, Field(min_length=1)]


class EmbeddingsBody(Body):
    input: _Embedded | Annotated[list[_Embedded | EmbeddingItem], Field(min_length=1, max_length=256)]
    model: ModelName = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


# ---- what is answered -----------------------------------------------------------------------------------------------


class Fault(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    error: Fault


class CaptionAnswer(BaseModel):
    caption: str
    model: str


class Ranked(BaseModel):
    answer: str
    score: float


class Answered(BaseModel):
    question: str
    answer: str
    ranked: list[Ranked] | None = None


class AnswerAnswer(BaseModel):
    answers: list[Answered]
    model: str


class LabelScore(BaseModel):
    label: str
    score: float


class ClassifyAnswer(BaseModel):
    labels: list[LabelScore]
    model: str


class HealthAnswer(BaseModel):
    status: Literal["ok", "draining"]
    models: list[str]
