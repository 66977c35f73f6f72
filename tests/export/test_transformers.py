"""The processor and the logits processor for transformers: a tiny language model learns real images and returns them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from transformers import AutoProcessor, LlamaConfig, LlamaForCausalLM

from smalti.errors import SmaltiError
from smalti.export.transformers import ImageGrammarLogitsProcessor, VisualTextProcessor
from smalti.export.vocabulary import published
from smalti.export.vocabulary.new_vocabulary import codes_of, make_vocabulary
from smalti.export.vocabulary.text_tokenizer import add_strings
from smalti.images import save_image
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import GQ


def text_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=270, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    model.train_from_iterator(["a photo of a cat"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="module")
def visual():
    torch.manual_seed(0)
    return wetok(GQ(2, 4), stride=8, channels=8, blocks=1, groups=None).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def photos():
    return [Image.fromarray(getattr(data, name)()).convert("RGB") for name in ("cat", "coffee", "rocket")]


def make_processor(visual, preset="emu3", size=(32, 40), **options):
    text = text_tokenizer()
    vocabulary = make_vocabulary(preset, codes_of(visual), text_tokenizer=text, config_rows=300, **options)
    if options.get("strings"):
        add_strings(text, vocabulary)
    return VisualTextProcessor(text, visual, vocabulary, size=size)


def tiny_model(rows):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True, pad_token_id=None,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize(("preset", "strings"), [("emu3", False), ("flat", True)])
def test_a_tiny_model_learns_real_images_and_generates_their_tokens_exactly(visual, photos, preset, strings):
    processor = make_processor(visual, preset, strings=strings)
    captions = ["a cat", "a cup", "a rocket"]
    texts = [f"{caption} <image>" for caption in captions]
    batch = processor(texts, images=photos, return_labels=True)
    model = tiny_model(processor.vocabulary.rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.05:
            break

    model.eval()
    for caption, photo in zip(captions, photos, strict=True):
        ids = model.generate(
            **processor.image_prompt(f"{caption} "),
            do_sample=False,
            max_new_tokens=100,
            logits_processor=processor.logits_processors(),
            eos_token_id=processor.end_id,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        expected = processor.encode_image(photo)
        assert ids[0, -len(expected) :].tolist() == expected
        (image,) = processor.decode_images(ids[0])
        tokens = visual.tokenize(processor_pixels(photo))
        save = np.asarray(image, dtype=int)
        shown = ((visual.detokenize(tokens)[0].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).round().numpy().astype(int)
        assert np.array_equal(save, shown)
        assert processor.decode(ids[0]).startswith(caption)
        assert processor.decode(ids[0]).endswith("<image>")


def processor_pixels(photo):
    from smalti.export.transformers.images import pixels_of

    return pixels_of(photo, (32, 40))


def test_an_untrained_model_generates_valid_images_only(visual):
    for preset in ("emu3", "emu3.5", "lumina-mgpt", "show-o", "liquid", "flat"):
        processor = make_processor(visual, preset, size=(32, 48))
        model = tiny_model(processor.vocabulary.rows + 7).eval()  # a padded embedding table
        ids = model.generate(
            **processor.image_prompt(["a", "b"]),
            do_sample=True,
            max_new_tokens=80,
            logits_processor=processor.logits_processors(),
            eos_token_id=processor.end_id,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        for row in ids:
            (image,) = processor.decode_images(row)
            assert image.size == (48, 32)


def test_text_contains_no_codes_and_images_are_begun_only_if_they_end(visual):
    processor = make_processor(visual, "flat")
    vocabulary = processor.vocabulary
    inputs = torch.tensor([[0, 5, 6]])
    scores = torch.zeros(1, vocabulary.rows + 3)
    limited = ImageGrammarLogitsProcessor(vocabulary, (4, 5), max_length=3 + vocabulary.length((4, 5)))
    allowed = limited(inputs, scores)[0] == 0
    low, high = vocabulary.code_range
    assert not allowed[low : high + 1].any()
    assert not allowed[vocabulary.rows :].any()
    assert allowed[vocabulary.specials["boi"].id]
    assert not allowed[vocabulary.specials["eoi"].id]
    assert allowed[:269].all()
    too_late = torch.tensor([[0, 5, 6, 7]])
    assert limited(too_late, scores)[0, vocabulary.specials["boi"].id] == -torch.inf
    begun = torch.tensor([[0, 5, vocabulary.specials["boi"].id]])
    first, last = vocabulary.ranges[0]
    assert (limited(begun, scores)[0] == 0).nonzero().flatten().tolist() == list(range(first, last + 1))
    with pytest.raises(SmaltiError, match="resize_token_embeddings"):
        limited(inputs, scores[:, :10])


def test_labels_ignore_padding_and_inputs_are_padded(visual, photos):
    processor = make_processor(visual)
    batch = processor(["<image> a cat", "a"], images=photos[:1], return_labels=True)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape
    padding = batch["attention_mask"] == 0
    assert padding[1].any()
    assert (batch["labels"][padding] == -100).all()
    assert torch.equal(batch["labels"][~padding], batch["input_ids"][~padding])
    processor.tokenizer.padding_side = "left"
    assert processor(["<image>", "a"], images=photos[:1])["attention_mask"][1, 0] == 0
    assert processor("a", return_tensors=None)["input_ids"] == [[0, *processor.tokenizer("a")["input_ids"]]]
    first, second = processor(["a <image> b <image>"], images=photos[:2])["input_ids"], photos[:2]
    assert len(processor.decode_images(first[0])) == len(second)
    assert processor.decode(first[0]) == "a <image> b <image>"


def test_images_keep_their_size_without_a_size(visual, photos):
    processor = make_processor(visual, size=None)
    small = photos[0].resize((40, 24))
    ids = processor("<image>", images=[small])["input_ids"][0]
    assert processor.decode_images(ids)[0].size == (40, 24)
    with pytest.raises(SmaltiError, match="size"):
        processor.image_prompt("a")
    assert processor.image_prompt("a", size=(24, 40))["input_ids"].shape[0] == 1


def test_paths_and_pixels_are_images(visual, tmp_path):
    processor = make_processor(visual)
    pixels = torch.rand(1, 3, 32, 40) * 2 - 1
    save_image(pixels, tmp_path / "a.png")
    from smalti import load_image

    assert processor.encode_image(tmp_path / "a.png") == processor.encode_image(load_image(tmp_path / "a.png"))
    for wrong, message in ((5, "int"), (pixels[..., :-1], "resize"), (tmp_path / "b.png", "b.png")):
        with pytest.raises(SmaltiError, match=message):
            processor.encode_image(wrong)


@pytest.mark.parametrize("strings", [False, True])
def test_a_saved_processor_loads_with_auto_processor_and_runs_no_code_of_the_folder(visual, photos, tmp_path, strings):
    processor = make_processor(visual, "flat", strings=strings)
    processor.save_pretrained(tmp_path)
    (tmp_path / "processing_smalti.py").write_text("raise SystemExit('code of the folder ran')")
    expected = processor("a <image>", images=photos[:1])["input_ids"]
    for load in (VisualTextProcessor, AutoProcessor):
        loaded = load.from_pretrained(tmp_path)
        assert isinstance(loaded, VisualTextProcessor)
        assert loaded.vocabulary == processor.vocabulary
        assert loaded.size == (32, 40)
        assert torch.equal(loaded("a <image>", images=photos[:1])["input_ids"], expected)
    loaded.save_pretrained(tmp_path)  # again, into the same folder
    assert "auto_map" not in json.loads((tmp_path / "processor_config.json").read_text())


def test_bad_input_is_refused_in_one_sentence(visual, photos, tmp_path):
    processor = make_processor(visual)
    text, vocabulary = processor.tokenizer, processor.vocabulary
    cases = [
        (lambda: processor(["<image>"]), "1 placeholders"),
        (lambda: processor("a", padding=True), "padding"),
        (lambda: VisualTextProcessor(text, visual, published("emu3")), "32768 codes, but the tokenizer has"),
        (
            lambda: VisualTextProcessor(text, visual, make_vocabulary("flat", codes_of(visual))),
            "not made with this text",
        ),
        (
            lambda: VisualTextProcessor(text, visual, make_vocabulary("delayed", codes_of(visual))),
            "several|begin token",
        ),
        (lambda: VisualTextProcessor(text, visual, vocabulary, size=(0, 8)), "size"),
        (lambda: VisualTextProcessor.from_pretrained(tmp_path), "no folder of a processor"),
        (lambda: processor.decode_images(processor.encode_image(photos[0])[:-1]), "cut or damaged"),
        (lambda: ImageGrammarLogitsProcessor(published("show-o")), "pass the grid"),
        (lambda: ImageGrammarLogitsProcessor(published("musicgen")), "begin token"),
        (lambda: processor.image_prompt(["a", "a photo of"]), "padding_side"),
    ]
    for call, message in cases:
        with pytest.raises(SmaltiError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    named = make_processor(visual, "flat", strings=True)
    for string in ("<|visual token 0 000003|>", "a <|image start|>"):
        with pytest.raises(SmaltiError, match="strings of visual tokens"):
            named(string)


def test_transformers_is_imported_on_use_only():
    modules = "smalti.export.vocabulary.new_vocabulary, smalti.commands.vocabulary"
    code = f"import sys, {modules}; assert not {{'transformers', 'torch'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_missing_package_is_named():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from smalti.errors import MissingExtraError\n"
        "try:\n    import smalti.export.transformers\nexcept MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "'.[transformers]'" in done.stdout
