"""MM's own routes: /caption, /answer, /classify, /explain. JSON, or a form with the picture as a file:

curl -F image=@photo.jpg localhost:8000/caption
"""

import base64
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from .batching import Unit
from .schemas import (
    AnswerAnswer,
    AnswerBody,
    Answered,
    CaptionAnswer,
    CaptionBody,
    ClassifyAnswer,
    ClassifyBody,
    ExplainBody,
    LabelScore,
    Ranked,
)
from .server import ApiError, Server, all_of

_Body = TypeVar("_Body", bound=BaseModel)
LISTS = ("questions", "answers", "labels")  # given several times in a form


def task_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["tasks"])

    @router.post("/caption", openapi_extra=accepts(CaptionBody))
    async def caption(request: Request, body: Annotated[CaptionBody, Depends(body_of(CaptionBody))]) -> CaptionAnswer:
        """A caption of a picture."""
        engine = server.engine(body.model, "write")
        settings = server.generation(num_beams=body.num_beams, max_new_tokens=body.max_new_tokens)
        pictures = await server.read([body.image])
        prompt = server.checked_text(body.prompt)
        written = await server.waited(request, engine.write(pictures, prompt or None, settings))
        return CaptionAnswer(caption=f"{prompt} {written.text}".strip(), model=engine.name)

    @router.post("/answer", openapi_extra=accepts(AnswerBody))
    async def answer(request: Request, body: Annotated[AnswerBody, Depends(body_of(AnswerBody))]) -> AnswerAnswer:
        """Answers to questions about one picture, which is encoded once."""
        engine = server.engine(body.model, "write" if body.answers is None else "rank")
        settings = server.generation(num_beams=body.num_beams, max_new_tokens=body.max_new_tokens)
        if body.answers is not None and settings:
            raise ApiError(400, f"answers are ranked, not written, so {', '.join(settings)} would not be read")
        server.check_texts(*body.questions, *(body.answers or ()))
        pictures, unit = await server.read([body.image]), Unit()

        async def answered(question: str) -> Answered:
            if body.answers is None:
                return Answered(
                    question=question, answer=(await engine.write(pictures, question, settings, unit=unit)).text
                )
            ranked = await engine.rank(pictures, question, body.answers, unit)
            best = [Ranked(answer=text, score=score) for text, score in ranked]
            return Answered(question=question, answer=best[0].answer, ranked=best)

        answers = await server.waited(request, all_of(map(answered, body.questions)))
        return AnswerAnswer(answers=answers, model=engine.name)

    @router.post("/classify", openapi_extra=accepts(ClassifyBody))
    async def classify(
        request: Request, body: Annotated[ClassifyBody, Depends(body_of(ClassifyBody))]
    ) -> ClassifyAnswer:
        """Labels of a picture, a text, or both, with scores, the best first."""
        engine = server.engine(body.model, "classify")
        if body.image is None and body.text is None:
            raise ApiError(400, "nothing to classify: give image, text, or both")
        is_zero_shot = "embed" in engine.tasks
        if is_zero_shot and (body.labels is None or body.image is None or body.text is not None):
            raise ApiError(400, f"{engine.name!r} compares a picture with labels: give image and labels, and no text")
        if not is_zero_shot and body.labels is not None:
            raise ApiError(400, f"{engine.name!r} has labels of its own; leave labels out")
        if body.labels is not None and len(body.labels) == 1 and "," in body.labels[0]:
            raise ApiError(
                400,
                f"labels is one label, {body.labels[0]!r:.80}: give each by itself, in JSON as a list of texts, in a "
                "form as a field each",
            )
        server.check_texts(body.template, *(body.labels or ()))
        pictures = [] if body.image is None else await server.read([body.image])
        text = None if body.text is None else server.checked_text(body.text)
        found = await server.waited(request, engine.classify(pictures, text, body.labels, body.template))
        labels = [LabelScore(label=label, score=score) for label, score in found[: body.top_k]]
        return ClassifyAnswer(labels=labels, model=engine.name)

    @router.post("/explain", openapi_extra=accepts(ExplainBody))
    async def explain(request: Request, body: Annotated[ExplainBody, Depends(body_of(ExplainBody))]) -> dict[str, Any]:
        """A caption, or the text given, and for each word where in the picture it was read."""
        engine = server.engine(body.model, "explain")
        (picture,) = await server.read([body.image])
        text = None if body.text is None else server.checked_text(body.text)
        return await server.waited(request, engine.explain(picture, text, body.method))

    return router


def accepts(model: type[BaseModel]) -> dict[str, Any]:
    """What the documentation says of a body that body_of reads."""
    schema = model.model_json_schema()
    form = {**schema, "properties": dict(schema["properties"])}
    if "image" in form["properties"]:
        form["properties"]["image"] = {"type": "string", "format": "binary"}
    contents = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": contents}}


def body_of(model: type[_Body]) -> Callable[[Request], Any]:
    """Reads a body of JSON, or a form whose file is the picture."""

    async def read(request: Request) -> _Body:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        try:
            if kind == "multipart/form-data":
                return model.model_validate(await _fields(request), strict=False)
            if kind and kind != "application/json" and not kind.endswith("+json"):
                raise ApiError(415, f"content-type {kind!r}: give application/json or multipart/form-data")
            return model.model_validate_json(await request.body())
        except ValidationError as error:
            raise ApiError(400, in_words(error.errors())) from None

    return read


async def _fields(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with request.form(max_files=1, max_fields=5000) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                data = base64.b64encode(await value.read()).decode("ascii")
                value = f"data:;base64,{data}"
            if name in LISTS:
                found.setdefault(name, []).append(value)
            elif name in found:
                raise ApiError(400, f"the field {name!r:.80} is there twice")
            else:
                found[name] = value
    return found


_TYPES = ("body", "str", "int", "float", "bool", "dict", "list")


def in_words(errors: Any) -> str:
    """The first faults of a body: where each is, and what it is; of what may be of several types, what each says."""
    told: dict[str, list[str]] = {}
    for error in errors:
        # Pydantic's place names the type that it tried, too: "constrained-str", "list[...]", "EmbeddingItem"
        *above, last = [str(part) for part in error["loc"]] or [""]
        fields = [part for part in [*above, last] if re.fullmatch("[a-z0-9_]+", part) and part not in _TYPES]
        if error.get("type") == "extra_forbidden":  # the client's own name, whatever it is
            fields = [*(part for part in above if part in fields), last[:80]]
        words = told.setdefault(".".join(fields), [])
        if error["msg"] not in words:
            words.append(error["msg"])
    faults = [" or ".join(words) if not where else f"{where}: {' or '.join(words)}" for where, words in told.items()]
    return json.dumps("; ".join(faults[:3]), ensure_ascii=True)[1:-1]
