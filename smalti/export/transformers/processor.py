"""A processor for text with images: ids and labels for a language model, and images back from generated ids.

Shapes: B batch; S tokens; H, W pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, LogitsProcessorList, ProcessorMixin

from smalti.errors import SmaltiError
from smalti.export.transformers.images import find_images, pixels_of, to_image
from smalti.export.transformers.logits_processor import ImageGrammarLogitsProcessor
from smalti.export.vocabulary.grammar import Grid
from smalti.export.vocabulary.manifest import VisualVocabulary
from smalti.export.vocabulary.manifest_file import FILE_NAME, load_vocabulary, save_vocabulary
from smalti.export.vocabulary.new_vocabulary import check_fits
from smalti.export.vocabulary.prompts import IGNORED, generation_prompt
from smalti.export.vocabulary.text_tokenizer import check_text_tokenizer, load_text_tokenizer
from smalti.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

    from smalti.tokenizers.tokenizer import Tokenizer

PLACEHOLDER = "<image>"
_VISUAL_FOLDER = "visual_tokenizer"
_CONFIG = "processor_config.json"


class VisualTextProcessor(ProcessorMixin):
    """Converts text with images to ids, and generated ids to text and images.

        processor = VisualTextProcessor(text_tokenizer, smalti.load("my-tokenizer"), vocabulary, size=(256, 256))
        batch = processor(["a cat <image>"], images=[image], return_labels=True)   # input_ids, attention_mask, labels
        start = processor.image_prompt("a cat")
        ids = model.generate(**start, logits_processor=processor.logits_processors(), eos_token_id=processor.end_id)
        image = processor.decode_images(ids[0])[0]

    Args:
        tokenizer: text tokenizer of Hugging Face.
        visual: discrete visual tokenizer.
        vocabulary: vocabulary of the visual tokenizer, made with this text tokenizer.
        size: (height, width) to which images are scaled and cropped; None: images keep their size.
        chat_template: as in every processor of transformers.

    Raises:
        SmaltiError: the vocabulary does not fit the visual tokenizer or the text tokenizer, has several ids per step, or is
            for another size.
    """

    def __init__(
        self,
        tokenizer: Any,
        visual: Tokenizer,
        vocabulary: VisualVocabulary,
        size: tuple[int, int] | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        check_fits(vocabulary, visual)
        if vocabulary.layout != "flat" or vocabulary.grammar.begin is None:
            raise SmaltiError(
                f"A processor needs images with a begin token and one id per step, which the preset {vocabulary.preset} "
                "does not have: choose a preset such as flat."
            )
        check_text_tokenizer(tokenizer, vocabulary)
        self.visual = visual
        self.vocabulary = vocabulary
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.grid: Grid | None = None
        if self.size is not None:
            self.grid = vocabulary.layout_grid(visual.layout(self.size))
            vocabulary.grid.check(self.grid)

    @property
    def end_id(self) -> int | None:
        """Id of the token after an image: pass it to `generate` as eos_token_id to generate one image."""
        role = self.vocabulary.grammar.end
        return None if role is None else self.vocabulary.specials[role].id

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        text: str | Sequence[str],
        images: Sequence[Any] | None = None,
        *,
        return_labels: bool = False,
        return_tensors: str | None = "pt",
        **unknown: Any,
    ) -> BatchFeature:
        """Return the ids of texts with images.

        Args:
            text: one text or several, with a placeholder "<image>" for each image.
            images: images of all texts in order: PIL images, paths, or pixels (3, H, W) in [-1, 1].
            return_labels: whether to add labels, and the end of the sequence: for training. Padding has the label -100.
            return_tensors: "pt", "np", or None for lists.
            unknown: other arguments are refused.

        Returns:
            input_ids and attention_mask (B, S), and labels if requested, padded on the padding side of the text tokenizer.

        Raises:
            SmaltiError: the numbers of images and placeholders differ, an image cannot be read, or an argument is unknown.
        """
        if unknown:
            raise SmaltiError(f"The processor has no argument '{next(iter(unknown))}': see its documentation.")
        texts = [text] if isinstance(text, str) else list(text)
        images = [] if images is None else list(images)
        count = sum(item.count(PLACEHOLDER) for item in texts)
        if count != len(images):
            raise SmaltiError(f"The texts have {count} placeholders {PLACEHOLDER}, but there are {len(images)} images.")
        encoded = iter([self.encode_image(image) for image in images])
        sequences = []
        for item in texts:
            first, *others = item.split(PLACEHOLDER)
            ids = [*self._begin(), *self._text_ids(first)]
            for part in others:
                ids += [*next(encoded), *self._text_ids(part)]
            if return_labels and self.tokenizer.eos_token_id is not None:
                ids.append(self.tokenizer.eos_token_id)
            sequences.append(ids)
        return self._pad(sequences, return_labels=return_labels, return_tensors=return_tensors)

    @torch.inference_mode()
    def encode_image(self, image: Any) -> list[int]:
        """Return the ids of an image: a PIL image, a path, or pixels (3, H, W) in [-1, 1].

        Raises:
            SmaltiError: it cannot be read, or its grid is not valid in the vocabulary.
        """
        weight = next(self.visual.parameters())
        pixels = pixels_of(image, self.size).to(weight.device)
        (ids,) = self.vocabulary.to_ids(self.visual.tokenize(pixels))
        return ids.tolist()

    def image_prompt(
        self, text: str | Sequence[str], size: tuple[int, int] | None = None, return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """Return what the generation of an image after a text starts from: the text, the begin token and the size.

        Args:
            text: one text or several of the same number of tokens, or for a tokenizer that pads on the left.
            size: (height, width) in pixels; None: that of the processor.
            return_tensors: "pt", "np", or None for lists.

        Raises:
            SmaltiError: no size is known, or the texts need padding and the tokenizer pads on the right.
        """
        grid = self.grid if size is None else self.vocabulary.layout_grid(self.visual.layout(size))
        if grid is None:
            raise SmaltiError("The size of the image is unknown: pass size=(height, width).")
        texts = [text] if isinstance(text, str) else list(text)
        sequences = [
            generation_prompt(self.vocabulary, grid, [*self._begin(), *self._text_ids(item)]).tolist() for item in texts
        ]
        if len({len(ids) for ids in sequences}) > 1 and self.tokenizer.padding_side != "left":
            raise SmaltiError("Prompts of different lengths must be padded on the left: set padding_side='left'.")
        return self._pad(sequences, return_labels=False, return_tensors=return_tensors)

    def logits_processors(self, max_length: int | None = None) -> LogitsProcessorList:
        """Return what makes `generate` produce valid images only. See `ImageGrammarLogitsProcessor`."""
        return LogitsProcessorList([ImageGrammarLogitsProcessor(self.vocabulary, self.grid, max_length)])

    def decode_images(self, ids: Tensor | Sequence[int], generator: torch.Generator | None = None) -> list[Image.Image]:
        """Return the images in a sequence of ids (S,), in order.

        Args:
            ids: one sequence, such as a row that `generate` returned.
            generator: noise of a generative decoder.

        Raises:
            SmaltiError: an image in the sequence is not complete or not valid.
        """
        return [self._decode(codes, generator) for _, _, codes in self._find(ids)]

    def decode_text(self, ids: Tensor | Sequence[int]) -> str:
        """Return the text of a sequence (S,), with the placeholder "<image>" for each image."""
        numbers, parts, position = _numbers(ids), [], 0
        for start, end, _ in self._find(ids):
            parts += [self._text_of(numbers[position:start]), PLACEHOLDER]
            position = end
        return "".join([*parts, self._text_of(numbers[position:])])

    def decode(self, token_ids: Tensor | Sequence[int], **_: Any) -> str:
        """Return the text of a sequence, see `decode_text`. The text tokenizer does not know the ids of images."""
        return self.decode_text(token_ids)

    def batch_decode(self, sequences: Tensor | Sequence[Sequence[int]], **_: Any) -> list[str]:
        """Return the text of each sequence, see `decode_text`."""
        return [self.decode_text(ids) for ids in sequences]

    def to_dict(self) -> dict[str, Any]:
        """Return what processor_config.json contains."""
        return {"processor_class": type(self).__name__, "size": self.size}

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **_: Any) -> list[str]:
        """Write the text tokenizer, the visual tokenizer, visual_vocab.json and processor_config.json to a folder.

        Raises:
            SmaltiError: `push_to_hub` is set, or the folder cannot be written.
        """
        from smalti.tokenizers.checkpoints import save

        if push_to_hub:
            raise SmaltiError("Save the processor to a folder, and upload the folder with huggingface_hub.")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        save(self.visual, folder / _VISUAL_FOLDER, overwrite=True)
        save_vocabulary(folder / FILE_NAME, self.vocabulary)
        with atomic_write(folder / _CONFIG) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return [str(folder / name) for name in (_CONFIG, FILE_NAME, _VISUAL_FOLDER)]

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **_: Any
    ) -> VisualTextProcessor:
        """Load a folder that `save_pretrained` wrote. No code of the folder is run.

        Raises:
            SmaltiError: the folder is incomplete or damaged, or its parts do not fit together.
        """
        from smalti.tokenizers.checkpoints import load

        folder = Path(pretrained_model_name_or_path)
        try:
            config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
            size = config["size"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SmaltiError(
                f"{folder} is no folder of a processor, or is damaged: save the processor again."
            ) from error
        vocabulary, visual = load_vocabulary(folder / FILE_NAME), load(folder / _VISUAL_FOLDER, "cpu")
        return cls(load_text_tokenizer(folder), visual, vocabulary, None if size is None else (size[0], size[1]))

    def _begin(self) -> list[int]:
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    def _text_ids(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        low, high = self.vocabulary.code_range
        reserved = {self.vocabulary.specials[role].id for role in self.vocabulary.grammar.roles()}
        if any(low <= number <= high or number in reserved for number in ids):
            raise SmaltiError("The text contains strings of visual tokens: pass images in place of them.")
        return list(ids)

    def _text_of(self, ids: list[int]) -> str:
        known = [number for number in ids if number < len(self.tokenizer)]
        return self.tokenizer.decode(known, skip_special_tokens=True) if known else ""

    def _find(self, ids: Tensor | Sequence[int]) -> list[tuple[int, int, np.ndarray]]:
        return find_images(self.vocabulary, _numbers(ids), self.grid)

    def _decode(self, codes: np.ndarray, generator: torch.Generator | None) -> Image.Image:
        grid = codes.shape[-3:-1]
        stride = self.visual.encoder.stride
        size = self.size if grid == (self.grid or ())[-2:] else (grid[0] * stride[1], grid[1] * stride[2])
        assert size is not None
        device = next(self.visual.parameters()).device
        ids = torch.from_numpy(codes.reshape(1, -1, codes.shape[-1])).to(device)
        with torch.inference_mode():
            return to_image(self.visual.detokenize(self.visual.grid(ids, size), generator)[0])

    def _pad(self, sequences: list[list[int]], *, return_labels: bool, return_tensors: str | None) -> BatchFeature:
        length = max(map(len, sequences), default=0)
        pad = self.tokenizer.pad_token_id
        if pad is None:
            pad = self.vocabulary.pad
        if pad is None and any(len(ids) < length for ids in sequences):
            raise SmaltiError(
                "The text tokenizer has no padding token: set tokenizer.pad_token, or pass one text at a time."
            )
        left = self.tokenizer.padding_side == "left"

        def fill(values: list[int], value: int) -> list[int]:
            padding = [value] * (length - len(values))
            return padding + values if left else values + padding

        data = {
            "input_ids": [fill(ids, pad or 0) for ids in sequences],
            "attention_mask": [fill([1] * len(ids), 0) for ids in sequences],
        }
        if return_labels:
            data["labels"] = [fill(ids, IGNORED) for ids in sequences]
        return BatchFeature(data, tensor_type=return_tensors)


def _numbers(ids: Tensor | Sequence[int]) -> list[int]:
    return ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else [int(number) for number in ids]
