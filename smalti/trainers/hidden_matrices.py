"""Which parameters of a tokenizer are matrices of hidden layers, the ones that Muon orthogonalizes."""

from __future__ import annotations

from torch import nn

from smalti.tokenizers.tokenizer import Tokenizer


def hidden_matrices(tokenizer: Tokenizer) -> set[nn.Parameter]:
    """Return the weights of linear and convolutional layers inside of the encoder and the decoder.

    Not included: biases, norms and other parameters; the layers that read or return pixels, latents or timesteps
    (`outer_layers`); the bottleneck, with its codebooks and projections; convolutions with groups, which are not one
    matrix; weights with a parametrization.
    """
    matrices: set[nn.Parameter] = set()
    for network in (tokenizer.encoder, tokenizer.decoder):
        for module in network.modules():
            is_convolution = isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1
            if is_convolution or isinstance(module, nn.Linear):
                weight = module._parameters.get("weight")
                matrices |= set() if weight is None else {weight}
        matrices -= {parameter for layer in network.outer_layers for parameter in layer.parameters()}
    return matrices
