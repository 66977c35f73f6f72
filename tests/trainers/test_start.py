"""Runs that start as a linear codec: the log, resuming, warm starts, and two processes."""

import logging

import pytest
import torch
from torch import distributed, multiprocessing

from smalti.errors import SmaltiError
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import FSQ, GQ
from smalti.tokenizers.checkpoints import save
from smalti.tokenizers.linear_start.start import start_as_linear_codec
from smalti.trainers import Start, WarmStart


def build(bottleneck=None, groups=None):
    torch.manual_seed(0)
    return wetok(bottleneck or FSQ([8, 8, 5, 5]), stride=4, channels=8, multipliers=[1, 2], blocks=1, groups=groups)


def weights_of(module):
    return {name: weight.clone() for name, weight in module.tokenizer.state_dict().items()}


@pytest.fixture
def run(training, trainer, data):
    """Return a function that trains for some steps and returns the weights."""

    def fit(*callbacks, steps=2, tokenizer=None, **options):
        module = training(tokenizer or build(), gan=False, weights={"l1": 1.0, "mse": 1.0})
        built = trainer(*callbacks, max_steps=steps, **options)
        built.fit(module, data())
        return weights_of(module), built

    return fit


def test_the_log_compares_step_0_with_the_linear_codec(run, caplog):
    caplog.set_level(logging.INFO)
    run(Start("linear", samples=24))
    (line,) = [record.message for record in caplog.records if "Started as a linear codec" in record.message]
    started, linear = (float(word) for word in line.split() if word.replace(".", "").isdigit() and "." in word)
    assert linear > 15
    assert started > linear - 4


@pytest.mark.parametrize(
    ("gradient", "frozen", "warns"),
    [("straight_through", False, True), ("clipped", False, False), ("straight_through", True, False)],
    ids=["straight-through", "clipped", "frozen"],
)
def test_straight_through_gradients_of_signs_are_a_warning(run, caplog, gradient, frozen, warns):
    tokenizer = build(GQ(2, 4, gradient=gradient))
    tokenizer.encoder.requires_grad_(not frozen)
    caplog.set_level(logging.INFO)
    run(Start("linear", samples=24), tokenizer=tokenizer, steps=1)
    assert "Started as a linear codec" in caplog.text
    assert ("GQ trains with straight-through gradients" in caplog.text) == warns


@pytest.mark.parametrize("groups", [None, 1, 8])
def test_groups_without_room_for_brightness_are_named(run, caplog, groups):
    caplog.set_level(logging.INFO)
    run(Start("linear", samples=24), tokenizer=build(groups=groups), steps=1)
    assert ("Group norms with fewer than 4 channels per group" in caplog.text) == (groups == 8)


def test_a_resumed_run_does_not_start_again(run, training, trainer, data, tmp_path, caplog):
    _, interrupted = run(Start("linear", samples=24), steps=2)
    interrupted.save_checkpoint(tmp_path / "step.ckpt")
    saved = weights_of(interrupted.lightning_module)
    caplog.set_level(logging.INFO)
    caplog.clear()  # the first run logs if an earlier test has lowered the level
    module = training(build(), gan=False, weights={"l1": 1.0, "mse": 1.0})
    resumed = trainer(Start("linear", samples=24), max_steps=2)
    resumed.fit(module, data(), ckpt_path=tmp_path / "step.ckpt", weights_only=False)
    assert "Started as a linear codec" not in caplog.text
    for name, weight in weights_of(module).items():
        assert torch.equal(weight, saved[name])


def test_the_weights_of_a_warm_start_win(run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    save(build(), tmp_path / "source")
    warm, _ = run(WarmStart(tmp_path / "source"))
    both, _ = run(Start("linear"), WarmStart(tmp_path / "source"))
    assert "start.method linear is not used" in caplog.text
    for name, weight in warm.items():
        assert torch.equal(weight, both[name])


@pytest.mark.parametrize("arguments", [{"method": "pca"}, {"samples": 0}])
def test_wrong_arguments_are_one_sentence(arguments):
    with pytest.raises(SmaltiError, match="use"):
        Start(**arguments)


def _start_on_a_rank(rank, file, crops):
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    tokenizer = build()
    start_as_linear_codec(tokenizer, [crops[rank::2]])
    torch.save(tokenizer.state_dict(), f"{file}.{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_fit_the_same_weights_to_all_of_their_data(tmp_path):
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(16, 3, 6, 6), size=16, mode="bicubic") * 2 - 1
    arguments = (str(tmp_path / "store"), smooth)
    multiprocessing.start_processes(_start_on_a_rank, arguments, nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"store.{rank}.pt") for rank in range(2))
    for name, weight in first.items():
        assert torch.equal(weight, second[name])
    single = build()
    start_as_linear_codec(single, [smooth])
    reconstructions = []
    for weights in (first, single.state_dict()):
        tokenizer = build()
        tokenizer.load_state_dict(weights)
        with torch.no_grad():
            reconstructions.append(tokenizer.eval()(smooth)[0])
    # The processes choose other positions for their regressions, so the weights are equal up to sampling.
    assert (reconstructions[0] - reconstructions[1]).abs().mean() < 0.1
