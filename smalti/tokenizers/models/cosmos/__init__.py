"""The networks of NVIDIA's Cosmos tokenizers (arXiv 2501.03575) for images and videos."""

from smalti.tokenizers.models.cosmos.builder import cosmos
from smalti.tokenizers.models.cosmos.decoder import CosmosDecoder
from smalti.tokenizers.models.cosmos.encoder import CosmosEncoder

__all__ = ["CosmosDecoder", "CosmosEncoder", "cosmos"]
