"""Train a small autoregressive image model on the tokens of a folder of photos, sample from it, and write the samples.

    python examples/train_image_model.py my/photos --tokenizer my-tokenizer --out image-model

Needs the extra `transformers`. The photos are cropped to squares, tokenized once per augmentation, and turned into ids by
the vocabulary preset "flat". A Llama of a few layers learns the sequences. Samples are valid images by construction: a
logits processor allows only ids that continue one. `samples.png` shows decoded photos in the first row, samples below.

The folder `--out` gets visual_vocab.json, model/ (for transformers), samples.png and loss.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList

import smalti
from smalti.export.transformers import ImageGrammarLogitsProcessor
from smalti.export.transformers.images import pixels_of, to_image
from smalti.export.vocabulary import VisualVocabulary
from smalti.export.vocabulary.manifest_file import FILE_NAME, save_vocabulary
from smalti.export.vocabulary.new_vocabulary import codes_of, make_vocabulary
from smalti.folders import find_files
from smalti.images import IMAGE_SUFFIXES, decode_image


def main() -> None:
    """Train, sample and write the results."""
    options = parse_options()
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = smalti.load(options.tokenizer, device)
    size = (options.size, options.size)
    vocabulary = make_vocabulary("flat", codes_of(tokenizer))
    grid = vocabulary.layout_grid(tokenizer.layout(size))
    options.out.mkdir(parents=True, exist_ok=True)
    save_vocabulary(options.out / FILE_NAME, vocabulary)

    files = find_files(options.photos, IMAGE_SUFFIXES)
    crops = [crop for file in files for crop in augment(decode_image(file).convert("RGB"), options.size, options.crops)]
    sequences = tokenize(tokenizer, vocabulary, crops, device)
    print(
        f"{len(files)} photos, {len(sequences)} sequences of {sequences.shape[1]} ids, {vocabulary.rows} different ids"
    )

    model = build_model(vocabulary, sequences.shape[1], options.width, options.layers).to(device)
    losses = train(model, sequences, options.steps, options.batch_size)
    (options.out / "loss.json").write_text(json.dumps(losses))
    model.save_pretrained(options.out / "model")

    samples = sample(model, vocabulary, grid, options.samples)
    shown = sequences[torch.randperm(len(sequences))[: options.samples]]
    write_sheet(options.out / "samples.png", [decode(tokenizer, vocabulary, ids, size) for ids in (shown, samples)])
    print(f"{options.out / 'samples.png'}: {len(samples)} samples")


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Train a small autoregressive image model on photos.")
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--tokenizer", type=Path, required=True, help="exported folder or .ckpt file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images in pixels")
    parser.add_argument("--crops", type=int, default=8, help="random crops per photo, each also mirrored")
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--batch-size", type=int, default=8, help="sequences per step")
    parser.add_argument("--width", type=int, default=192, help="channels of the model")
    parser.add_argument("--layers", type=int, default=4, help="layers of the model")
    parser.add_argument("--samples", type=int, default=8, help="number of samples")
    parser.add_argument("--seed", type=int, default=0, help="seed for crops, weights and samples")
    return parser.parse_args()


def augment(photo: Image.Image, size: int, count: int) -> list[Image.Image]:
    """Return random square crops of at least half the shorter side, scaled to size x size, and their mirror images."""
    crops = []
    for _ in range(count):
        side = int(min(photo.size) * (0.5 + 0.5 * torch.rand(()).item()))
        left, top = (int(torch.randint(length - side + 1, ()).item()) for length in photo.size)
        crop = photo.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        crops += [crop, ImageOps.mirror(crop)]
    return crops


@torch.inference_mode()
def tokenize(
    tokenizer: smalti.Tokenizer, vocabulary: VisualVocabulary, images: list[Image.Image], device: torch.device
) -> Tensor:
    """Return the ids of images of one size, (images, length) int64."""
    batches = [images[start : start + 16] for start in range(0, len(images), 16)]
    tokens = [tokenizer.tokenize(torch.cat([pixels_of(image) for image in batch]).to(device)) for batch in batches]
    return torch.stack([torch.from_numpy(ids) for batch in tokens for ids in vocabulary.to_ids(batch)])


def build_model(vocabulary: VisualVocabulary, length: int, width: int, layers: int) -> LlamaForCausalLM:
    """Return a randomly initialized Llama for sequences of this length."""
    heads = max(width // 32, 1)
    config = LlamaConfig(
        vocab_size=vocabulary.rows,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=length,
        tie_word_embeddings=True,
        bos_token_id=vocabulary.specials["boi"].id,
        eos_token_id=vocabulary.specials["eoi"].id,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, sequences: Tensor, steps: int, batch_size: int) -> list[float]:
    """Train with AdamW and a cosine schedule. Returns the loss of every step, in nats per id."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses, start = [], time.monotonic()
    for step in range(steps):
        batch = sequences[torch.randint(len(sequences), (batch_size,))].to(model.device)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {losses[-1]:.3f}, {time.monotonic() - start:.0f} s", flush=True)
    return losses


@torch.inference_mode()
def sample(model: LlamaForCausalLM, vocabulary: VisualVocabulary, grid: tuple[int, ...], count: int) -> Tensor:
    """Return samples (count, length) that begin with the begin token and are valid images of a grid."""
    model.eval()
    begin, end = vocabulary.specials["boi"].id, vocabulary.specials["eoi"].id
    prompt = torch.full((count, 1), begin, device=model.device)
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        top_k=100,
        max_length=vocabulary.length(grid),
        logits_processor=LogitsProcessorList([ImageGrammarLogitsProcessor(vocabulary, grid)]),
        eos_token_id=end,
        pad_token_id=end,
    )


@torch.inference_mode()
def decode(
    tokenizer: smalti.Tokenizer, vocabulary: VisualVocabulary, sequences: Tensor, size: tuple[int, int]
) -> list[Image.Image]:
    """Return the images of sequences (B, length)."""
    tokens = vocabulary.from_ids(list(sequences.cpu().numpy()), tokenizer.layout(size))
    device = next(tokenizer.parameters()).device
    return [to_image(pixels) for pixels in tokenizer.detokenize(tokens.to(device))]


def write_sheet(file: Path, rows: list[list[Image.Image]], scale: int = 2) -> None:
    """Write rows of images of one size to a PNG file, enlarged without smoothing."""
    width, height = (side * scale for side in rows[0][0].size)
    sheet = Image.new("RGB", (width * len(rows[0]), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (x * width, y * height))
    sheet.save(file)


if __name__ == "__main__":
    main()
