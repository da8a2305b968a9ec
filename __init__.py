"""MM: multimodal encoder-fusion-decoder models for Hugging Face Transformers.

`import mm` registers every class with the Auto classes, so `AutoModel.from_pretrained("org/mm-base")` finds them.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForMultimodalLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForVideoClassification,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from . import losses
from .configuration.auto_map import FRONT, WRITERS
from .configuration.conv import MMConvConfig
from .configuration.image_tokenizer import MMImageTokenizerConfig
from .configuration.mm import MMConfig
from .configuration.resampler import MMResamplerConfig
from .configuration.text import MMTextConfig
from .configuration.vision import MMVisionConfig
from .kernels.cross_attention import flash_cross_attention
from .modeling_mm.core.cache import MMCache
from .modeling_mm.core.inputs_outputs import MMCausalLMOutput, MMContextOutput, MMModelOutput
from .modeling_mm.core.int8_cache import Int8Context
from .modeling_mm.core.linear import use_onednn
from .modeling_mm.model import MMModel
from .modeling_mm.tasks import pipelines as _pipelines  # registers its tasks
from .modeling_mm.tasks.answer_ranking import MMRankOutput, MMScoreOutput
from .modeling_mm.tasks.classification import MMClassifierOutput, MMForSequenceClassification
from .modeling_mm.tasks.generation import MMForConditionalGeneration
from .modeling_mm.tasks.masked_lm import MMForMaskedLM
from .modeling_mm.tasks.pretraining import MMForPreTraining, MMPreTrainingOutput
from .modeling_mm.tasks.retrieval import MMForImageTextRetrieval, MMRetrievalOutput
from .modeling_mm.tasks.similarity_search import MMSearchOutput
from .modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from .modeling_mm.towers.conv import MMConvModel
from .modeling_mm.towers.image_tokenizer import MMImageTokenizer, MMImageTokenizerOutput
from .modeling_mm.towers.text import MMTextModel
from .modeling_mm.towers.vit import MMVisionModel
from .processing.collator import MMDataCollator
from .processing.images.load import MediaDecodeError, load_image
from .processing.images.processor import MMImageProcessorPil
from .processing.images.processor_fast import MMImageProcessor
from .processing.processor import MMProcessor
from .processing.spelling import changed_texts, spelled

if TYPE_CHECKING:
    from . import metrics
    from .conversion_scripts.engine import convert
    from .data.dataset import MMDataset
    from .data.errors import DataError
    from .data.load import load_data
    from .data.shards import MMShards
    from .explaining.explanation import Explanation
    from .explaining.plot import plot_explanation
    from .explaining.timestamps import word_timestamps
    from .exporting.hub import export_for_hub
    from .exporting.onnx_generator import OnnxGenerator
    from .processing.chat_labels import chat_inputs
    from .processing.tagged_text import token2json
    from .processing.vocabulary import new_vocabulary
    from .searching.build import EmbedReport, embed_files
    from .searching.index import MMIndex
    from .searching.sentence_module import MMSentenceModule
    from .training.auditing import Audit, audit
    from .training.card import write_card
    from .training.evaluating import Evaluation, evaluate
    from .training.log import JsonlLog
    from .training.metrics import compute_metrics_for, evaluate_task
    from .training.plan import describe_plan
    from .training.preferences import MMPreferenceCollator
    from .training.publish import push_to_hub
    from .training.recipe import train
    from .training.report import write_report
    from .training.run import TrainResult
    from .training.tower_features import store_features
    from .training.trainer import MMTrainer
    from .training.verify import verify, write_manifest

__version__ = version("mm-transformers")

for _config, _model in (
    (MMConfig, MMModel),
    (MMVisionConfig, MMVisionModel),
    (MMConvConfig, MMConvModel),
    (MMTextConfig, MMTextModel),
    (MMImageTokenizerConfig, MMImageTokenizer),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
AutoConfig.register(MMResamplerConfig.model_type, MMResamplerConfig, exist_ok=True)
AutoModelForImageTextToText.register(MMConfig, MMForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(MMConfig, MMForConditionalGeneration, exist_ok=True)
AutoModelForSequenceClassification.register(MMConfig, MMForSequenceClassification, exist_ok=True)
AutoModelForImageClassification.register(MMConfig, MMForSequenceClassification, exist_ok=True)
AutoModelForVideoClassification.register(MMConfig, MMForSequenceClassification, exist_ok=True)
AutoModelForAudioClassification.register(MMConfig, MMForSequenceClassification, exist_ok=True)
_answering = (MMForConditionalGeneration, MMForSequenceClassification)  # by the checkpoint's "architectures"
AutoModelForVisualQuestionAnswering.register(MMConfig, _answering, exist_ok=True)
AutoModelForZeroShotImageClassification.register(MMConfig, MMForImageTextRetrieval, exist_ok=True)
AutoModelForMaskedLM.register(MMConfig, MMForMaskedLM, exist_ok=True)
AutoModelForPreTraining.register(MMConfig, MMForPreTraining, exist_ok=True)
AutoImageProcessor.register(
    MMConfig, image_processor_classes={"torchvision": MMImageProcessor, "pil": MMImageProcessorPil}, exist_ok=True
)
AutoModelForSpeechSeq2Seq.register(MMConfig, MMForSpeechSeq2Seq, exist_ok=True)
AutoProcessor.register(MMConfig, MMProcessor, exist_ok=True)
_pipelines.read_by_mm(f"{__name__}.processing.pipelines")

__all__ = [
    "Audit",
    "DataError",
    "EmbedReport",
    "Evaluation",
    "Explanation",
    "Int8Context",
    "JsonlLog",
    "MMCache",
    "MMCausalLMOutput",
    "MMClassifierOutput",
    "MMConfig",
    "MMContextOutput",
    "MMConvConfig",
    "MMConvModel",
    "MMDataCollator",
    "MMDataset",
    "MMForConditionalGeneration",
    "MMForImageTextRetrieval",
    "MMForMaskedLM",
    "MMForPreTraining",
    "MMForSequenceClassification",
    "MMForSpeechSeq2Seq",
    "MMImageProcessor",
    "MMImageProcessorPil",
    "MMImageTokenizer",
    "MMImageTokenizerConfig",
    "MMImageTokenizerOutput",
    "MMIndex",
    "MMModel",
    "MMModelOutput",
    "MMPreTrainingOutput",
    "MMPreferenceCollator",
    "MMProcessor",
    "MMRankOutput",
    "MMResamplerConfig",
    "MMRetrievalOutput",
    "MMScoreOutput",
    "MMSearchOutput",
    "MMSentenceModule",
    "MMShards",
    "MMTextConfig",
    "MMTextModel",
    "MMTrainer",
    "MMVisionConfig",
    "MMVisionModel",
    "MediaDecodeError",
    "OnnxGenerator",
    "TrainResult",
    "audit",
    "changed_texts",
    "chat_inputs",
    "compute_metrics_for",
    "convert",
    "describe_plan",
    "embed_files",
    "evaluate",
    "evaluate_task",
    "export_for_hub",
    "flash_cross_attention",
    "load_data",
    "load_image",
    "losses",
    "metrics",
    "new_vocabulary",
    "plot_explanation",
    "push_to_hub",
    "spelled",
    "store_features",
    "token2json",
    "train",
    "use_onednn",
    "verify",
    "word_timestamps",
    "write_card",
    "write_manifest",
    "write_report",
]


# Imported when they are asked for: none is needed to load and run a model, and some need an extra.
_LATER = {
    "Audit": "training.auditing",
    "audit": "training.auditing",
    "DataError": "data.errors",
    "EmbedReport": "searching.build",
    "Evaluation": "training.evaluating",
    "Explanation": "explaining.explanation",
    "JsonlLog": "training.log",
    "MMDataset": "data.dataset",
    "MMIndex": "searching.index",
    "MMPreferenceCollator": "training.preferences",
    "MMSentenceModule": "searching.sentence_module",
    "MMShards": "data.shards",
    "MMTrainer": "training.trainer",
    "OnnxGenerator": "exporting.onnx_generator",
    "TrainResult": "training.run",
    "chat_inputs": "processing.chat_labels",
    "compute_metrics_for": "training.metrics",
    "convert": "conversion_scripts.engine",
    "describe_plan": "training.plan",
    "embed_files": "searching.build",
    "evaluate": "training.evaluating",
    "evaluate_task": "training.metrics",
    "export_for_hub": "exporting.hub",
    "load_data": "data.load",
    "new_vocabulary": "processing.vocabulary",
    "plot_explanation": "explaining.plot",
    "push_to_hub": "training.publish",
    "store_features": "training.tower_features",
    "token2json": "processing.tagged_text",
    "train": "training.recipe",
    "verify": "training.verify",
    "word_timestamps": "explaining.timestamps",
    "write_card": "training.card",
    "write_manifest": "training.verify",
    "write_report": "training.report",
}

WRITERS[FRONT] = lambda folder: import_module(".exporting.hub", __name__).write_code(folder)


def __getattr__(name: str):
    if name == "metrics":  # a module, as losses
        return import_module(".metrics", __name__)
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
