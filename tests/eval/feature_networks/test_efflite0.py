"""The backbone of the proxies: its weights and the range of its input."""

import numpy as np
import torch
from PIL import Image, ImageOps

from smalti.pixels import uint8_to_pixels


def test_the_weights_recognize_a_cat(image_proxy):
    """The weights are the real ones: with their classifier, the photo of a cat is classified as a tabby cat."""
    import skimage.data

    image = ImageOps.fit(Image.fromarray(skimage.data.chelsea()), (224, 224))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    head = torch.load(image_proxy.network.file, weights_only=True)
    logits = image_proxy(pixels) @ head["_fc.weight"].T + head["_fc.bias"]
    assert logits.argmax().item() in (281, 282, 285)  # tabby, tiger cat, Egyptian cat


def test_the_input_has_the_range_of_training(photos, perceptual_proxy):
    seen = []
    network = perceptual_proxy.network
    handle = network.stem.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        network.feature_maps(uint8_to_pixels(photos), (0,))
    handle.remove()
    torch.testing.assert_close(seen[0], (photos.float() - 127) / 128)
