"""Classes for Hugging Face transformers: a processor for text with images, and a logits processor for valid images.

Importing this package registers the processor, so that `AutoProcessor.from_pretrained` finds it without running code from
the folder. It needs the extra `transformers`.

Raises:
    MissingExtraError: transformers is not installed.
"""

from smalti.errors import MissingExtraError

try:
    import transformers as _transformers
except ImportError as error:
    raise MissingExtraError("transformers", "transformers", "Processors for language models") from error

from smalti.export.transformers.logits_processor import ImageGrammarLogitsProcessor
from smalti.export.transformers.processor import VisualTextProcessor


class _VisualTextConfig(_transformers.PreTrainedConfig):
    """Key for the registry of processors, which is indexed by configurations of models."""

    model_type = "smalti-visual-text"


_transformers.AutoProcessor.register(_VisualTextConfig, VisualTextProcessor)

__all__ = ["ImageGrammarLogitsProcessor", "VisualTextProcessor"]
