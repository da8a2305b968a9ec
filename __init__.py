"""MM: multimodal encoder-fusion-decoder models for Hugging Face Transformers.

`import mm` registers every class with the Auto classes, so `AutoModel.from_pretrained("org/mm-base")` finds them.
"""

from importlib.metadata import version

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForMultimodalLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from .configuration.conv import MMConvConfig
from .configuration.mm import MMConfig
from .configuration.resampler import MMResamplerConfig
from .configuration.text import MMTextConfig
from .configuration.vision import MMVisionConfig
from .conversion_scripts.convert import convert
from .exporting.hub import export_for_hub
from .modeling_mm import pipelines as _pipelines  # registers its tasks
from .modeling_mm.cache import MMCache
from .modeling_mm.classification import MMForSequenceClassification
from .modeling_mm.conv import MMConvModel
from .modeling_mm.generation import MMForConditionalGeneration
from .modeling_mm.masked_lm import MMForMaskedLM
from .modeling_mm.model import MMModel
from .modeling_mm.outputs import (
    MMCausalLMOutput,
    MMClassifierOutput,
    MMContextOutput,
    MMModelOutput,
    MMPreTrainingOutput,
    MMRankOutput,
    MMRetrievalOutput,
    MMScoreOutput,
    MMSearchOutput,
)
from .modeling_mm.pretraining import MMForPreTraining
from .modeling_mm.retrieval import MMForImageTextRetrieval
from .modeling_mm.text import MMTextModel
from .modeling_mm.vision import MMVisionModel
from .processing.collate import MMDataCollator
from .processing.image import MMImageProcessorPil
from .processing.image_fast import MMImageProcessor
from .processing.media import MediaDecodeError
from .processing.mm import MMProcessor

__version__ = version("mm-transformers")

for _config, _model in (
    (MMConfig, MMModel),
    (MMVisionConfig, MMVisionModel),
    (MMConvConfig, MMConvModel),
    (MMTextConfig, MMTextModel),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
AutoConfig.register(MMResamplerConfig.model_type, MMResamplerConfig, exist_ok=True)
AutoModelForImageTextToText.register(MMConfig, MMForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(MMConfig, MMForConditionalGeneration, exist_ok=True)
AutoModelForSequenceClassification.register(MMConfig, MMForSequenceClassification, exist_ok=True)
AutoModelForImageClassification.register(MMConfig, MMForSequenceClassification, exist_ok=True)
AutoModelForZeroShotImageClassification.register(MMConfig, MMForImageTextRetrieval, exist_ok=True)
AutoModelForMaskedLM.register(MMConfig, MMForMaskedLM, exist_ok=True)
AutoModelForPreTraining.register(MMConfig, MMForPreTraining, exist_ok=True)
AutoImageProcessor.register(
    MMConfig, image_processor_classes={"torchvision": MMImageProcessor, "pil": MMImageProcessorPil}, exist_ok=True
)
AutoProcessor.register(MMConfig, MMProcessor, exist_ok=True)
_pipelines.read_by_mm(f"{__name__}.processing.pipelines")

__all__ = [
    "MMCache",
    "MMCausalLMOutput",
    "MMClassifierOutput",
    "MMConfig",
    "MMContextOutput",
    "MMConvConfig",
    "MMConvModel",
    "MMDataCollator",
    "MMForConditionalGeneration",
    "MMForImageTextRetrieval",
    "MMForMaskedLM",
    "MMForPreTraining",
    "MMForSequenceClassification",
    "MMImageProcessor",
    "MMImageProcessorPil",
    "MMModel",
    "MMModelOutput",
    "MMPreTrainingOutput",
    "MMProcessor",
    "MMRankOutput",
    "MMResamplerConfig",
    "MMRetrievalOutput",
    "MMScoreOutput",
    "MMSearchOutput",
    "MMTextConfig",
    "MMTextModel",
    "MMVisionConfig",
    "MMVisionModel",
    "MediaDecodeError",
    "convert",
    "export_for_hub",
]
