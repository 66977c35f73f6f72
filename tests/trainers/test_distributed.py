"""Training on two processes with DDP: equal to one process with both batches, and stopping together.

Two of the runs use `tests/fake_gpu.py`, whose process group accepts no CPU tensors, before and after the start of the GAN
loss.
"""

import itertools
import json
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.slow
def test_two_processes_equal_one_with_both_batches(tmp_path, run_ranks):
    """One step before the start of the GAN loss, and one after it.

    More steps would amplify rounding errors, because the quantizer is discontinuous. Only the run with two processes uses
    gradient checkpointing and fake GPUs.
    """
    start = 1
    results = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}"
        out.mkdir()
        ranks = run_ranks(HERE / "train_images_ddp.py", str(devices), str(out), str(start), ranks=devices)
        output = "".join(rank.output for rank in ranks)
        assert not any(rank.returncode for rank in ranks), output
        saved = [line for line in output.splitlines() if line.startswith("Saved")]
        assert len(saved) == 1, output
        results.append(json.loads((tmp_path / f"{devices}" / "result.json").read_text()))
    one, two = results
    assert one["global_step"] == two["global_step"] == start + 1
    # Gradients are summed in another order: below 100 float32 roundings of weights of about one.
    for name, weight in one["weights"].items():
        assert two["weights"][name] == pytest.approx(weight, rel=1e-5, abs=1e-5), name
    # Validation: four photos, once each. Gradient norms are float32 sums over all weights in another order.
    assert two["metrics"] == pytest.approx(one["metrics"], rel=3e-4)
    # One all-reduce each: the gradients, the quantizer's losses and the summary of the step. The GAN loss adds one for
    # LeCAM and one for the adaptive weight. The host waits for the device only to read the summary. In the second step of
    # a run, DDP orders its buckets, with two broadcasts for which the host waits.
    before, after = two["counts"]
    # After the first step, the audit reads the checksums of the loss, of the tokenizer and of all weights.
    assert before == {"allreduce_": 3, "host waits": 1 + 3}
    # This is the step before a validation: `Health` also measures the gradient of each loss, which it reads, and averages.
    assert after == {"allreduce_": 5 + 1, "host waits": 1 + 2 + 7, "broadcast_": 2}


@pytest.mark.slow
def test_all_processes_stop_if_one_has_an_infinite_loss(tmp_path, run_ranks):
    (tmp_path / "run").mkdir()
    ranks = run_ranks(HERE / "train_images_ddp.py", "2", str(tmp_path / "run"), "1", "poison")
    assert all(rank.returncode for rank in ranks)
    assert "NaN or infinite: l1" in ranks[1].output
    assert (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.slow
def test_unused_parameters_do_not_change_on_two_processes(tmp_path, run_ranks):
    """Parameters that no micro-batch of a step used, on any process, do not change despite weight decay."""
    (tmp_path / "run").mkdir()
    ranks = run_ranks(HERE / "train_images_and_clips_ddp.py", str(tmp_path / "run"))
    assert not any(rank.returncode for rank in ranks), ranks[0].output
    one, two = (torch.load(tmp_path / "run" / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["branches"] == two["branches"]
    for weights, other in zip(one["steps"], two["steps"], strict=True):
        assert all(torch.equal(weights[name], other[name]) for name in weights)

    def changed(part):
        """Return for each step whether the weights of a part changed, as the set of the answers."""
        names = [name for name in one["steps"][0] if name.startswith(part) and not name.endswith(("_u", "_v"))]
        return [
            {not torch.equal(before[name], after[name]) for name in names}
            for before, after in itertools.pairwise(one["steps"])
        ]

    yes, no = {True}, {False}
    # The two batches per step: image and image, image and clip, clip and image, image and image.
    for part in ("encoder.layers.1.time", "decoder.layers.2.time"):
        assert changed(f"tokenizer.{part}") == [no, yes, yes, no], part
    # The weights by which later frames attend to latent 0 start at zero. The convolution before them has no gradient until
    # the second clip.
    to_latent = changed("tokenizer.decoder.first_to_latent")
    assert (to_latent[0], to_latent[2], to_latent[3]) == (no, yes, no)
    assert changed("tokenizer.encoder.conv_in") == [yes] * 4
    discrete = ["discrete" in one["branches"][2 * step : 2 * step + 2] for step in range(4)]
    assert not all(discrete)
    assert changed("tokenizer.bottleneck.discrete") == [{step} for step in discrete]
    assert changed("gan.discriminator.body") == [no, no, yes, yes]
    assert {path.suffix for path in (tmp_path / "run" / "reconstructions").iterdir()} == {".png", ".mp4"}
