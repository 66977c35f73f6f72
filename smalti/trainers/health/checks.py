"""Checks of a run's health. Each looks at one record and says what it found, with the numbers, and what to try.

The thresholds leave room for healthy runs. They come from short runs of the quickstart recipes and of variants of them that
stay gray (docs/design.md, "Health of a run").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from smalti.trainers.health.baselines import BICUBIC, LINEAR_CODEC, MEAN_COLOR
from smalti.trainers.health.code_usage import CodeUsage, PartCounts
from smalti.trainers.health.loss_gradients import PIXELS
from smalti.trainers.health.record import HealthRecord, TrainingRecord

GRAY_MARGIN = 0.75
"""dB above the mean color below which a tokenizer has learned nothing."""
YOUNG = 200
"""Optimizer steps before which nothing is judged."""
MIN_POSITIONS = 64
"""Latent positions below which the usage of a code is not judged."""
MIN_POSITIONS_OF_BITS = 256
"""The same for single bits and levels: a value that one in a hundred positions has is missing among 256 in 8% of cases."""
DEAD_SHARE = 0.999
"""Share of positions with the same value from which a bit or a level is dead: it carries less than 0.012 bits."""
MIN_USED_CAPACITY = 0.5
"""Share of the nominal bits below which a code is wasted, counted value by value."""
SATURATED_SHARE = 0.9
"""Share of positions at the two outermost of four or more levels from which a channel is saturated. At tanh's ends, the
gradient vanishes."""
COLLAPSED_BITS = 0.01
"""Bits per position below which a KL channel has collapsed: the standard deviation of its mean is 12% of its noise."""
MAX_COLLAPSED = 0.5
"""Share of collapsed KL channels that is a problem. Fewer cost nothing but their computation."""
MIN_RATIO = 0.25
"""Contrast and saturation relative to the originals, below which pictures look flat or gray."""
MAX_CAST = 8.0
"""Mean error of a color in levels of 8 bits, from which a color cast is visible."""
MIN_GAN_STEPS = 200
"""Optimizer steps with GAN losses before which the discriminator is not judged."""
WON, LOST = 0.05, 0.99
"""Loss of the discriminator relative to that of guessing: below the first it has won, above the second it is useless."""
DOMINANT = 0.9
"""Share of the gradient from which a loss other than the pixel losses dominates."""
PLATEAU = 3, 0.1, 1.0
"""Validations without a gain of this many dB, this far in dB below the linear codec."""
MAX_DROP = 1.5
"""dB below its best validation from which a run gets worse."""


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        name: short name, such as "dead bits". Conditions of a run are remembered by it.
        value: what was measured, for a table.
        problem: a sentence that says what is wrong, with the numbers; "" if nothing is.
        advice: what to try, as the end of the sentence.
        unchecked: why nothing could be checked; "" if something was.
    """

    name: str
    value: str = ""
    problem: str = ""
    advice: str = ""
    unchecked: str = ""

    def __str__(self) -> str:
        return f"{self.problem}; {self.advice}."


Check = Callable[[HealthRecord], CheckResult]


def run_checks(record: HealthRecord) -> list[CheckResult]:
    """Run all checks on a record, in the order of the table."""
    return [check(record) for check in CHECKS]


# Pictures


def check_stuck(record: HealthRecord) -> CheckResult:
    """Compare the PSNR with that of the mean color."""
    name = "stuck at gray"
    floor = record.baselines.get(MEAN_COLOR)
    if floor is None:
        return CheckResult(name, unchecked="the mean color of the training data is not known")
    gain = record.psnr - floor
    value = f"{record.psnr:.2f} dB, {gain:+.2f} dB against the mean color"
    if gain >= GRAY_MARGIN:
        return CheckResult(name, value)
    contrast = record.colors.contrast_ratio
    flat = "" if contrast is None else f", with {contrast:.0%} of the contrast of the originals"
    problem = f"The reconstructions are no better than one color: {record.psnr:.2f} dB, one color {floor:.2f} dB{flat}"
    causes = [result.name for result in (check_kl(record), check_dominance(record)) if result.problem]
    if causes:
        return CheckResult(name, value, problem, f"solve the problem of the {causes[0]} first")
    return CheckResult(name, value, problem, _smaller_learning_rate(record.training) + ", and check the data")


def check_plateau(record: HealthRecord) -> CheckResult:
    """Look for a run that has stopped to gain below the linear codec."""
    name = "no gain"
    rival = record.baselines.get(LINEAR_CODEC)
    training = record.training
    count, min_gain, margin = PLATEAU
    if training is None or len(training.history) <= count:
        return CheckResult(name, unchecked=_too_few_validations(training, count + 1))
    points = training.history[-count - 1 :]
    gain = max(point.psnr for point in points[1:]) - points[0].psnr
    value = f"{gain:+.2f} dB in the last {count} validations"
    if rival is None:
        return CheckResult(name, unchecked="there is no linear codec to compare with")
    decayed = any(point.learning_rate < 0.5 for point in points[1:]) or points[-1].with_gan
    if gain >= min_gain or points[-1].psnr > rival - margin or decayed:
        return CheckResult(name, value)
    problem = (
        f"The PSNR has not improved since step {points[0].step} ({gain:+.2f} dB) and is {rival - points[-1].psnr:.1f} dB "
        "below the linear codec"
    )
    return CheckResult(name, value, problem, _smaller_learning_rate(training))


def check_drop(record: HealthRecord) -> CheckResult:
    """Look for a run whose PSNR has fallen far below its best."""
    name = "getting worse"
    training = record.training
    points = [] if training is None else [p for p in training.history if not p.with_gan]
    if training is None or len(points) < 2 or training.history[-1].with_gan:
        with_gan = training is not None and bool(training.history) and training.history[-1].with_gan
        reason = "PSNR may fall with GAN losses" if with_gan else _too_few_validations(training, 2)
        return CheckResult(name, unchecked=reason)
    best = max(points, key=lambda point: point.psnr)
    drop = best.psnr - points[-1].psnr
    value = f"{drop:.2f} dB below the best validation"
    if drop < MAX_DROP:
        return CheckResult(name, value)
    problem = f"The PSNR has fallen by {drop:.1f} dB since step {best.step} ({best.psnr:.2f} dB)"
    advice = f"{_smaller_learning_rate(training)}, and limit the gradients with --trainer.gradient_clip_val 1"
    return CheckResult(name, value, problem, advice)


def check_colors(record: HealthRecord) -> CheckResult:
    """Compare contrast, saturation and mean color with the originals."""
    name = "color"
    contrast, saturation = record.colors.contrast_ratio, record.colors.saturation_ratio
    errors = record.colors.mean_error
    cast = max(errors, key=abs)
    if contrast is None:
        return CheckResult(name, unchecked="the originals have no contrast")
    parts = [f"contrast {contrast:.0%}", *([] if saturation is None else [f"saturation {saturation:.0%}"])]
    value = ", ".join([*parts, f"cast {cast:+.1f} of 255"])
    is_gray = MEAN_COLOR in record.baselines and record.psnr < record.baselines[MEAN_COLOR] + GRAY_MARGIN
    if is_gray:
        return CheckResult(name, value)  # said by the check before
    if contrast < MIN_RATIO:
        problem = f"The reconstructions are flat: they have {contrast:.0%} of the contrast of the originals"
        return CheckResult(name, value, problem, "train longer, or give more bits per position")
    if saturation is not None and saturation < MIN_RATIO:
        problem = f"The reconstructions have hardly any color: {saturation:.0%} of the saturation of the originals"
        return CheckResult(name, value, problem, "train longer, or check that the training data has colors")
    if abs(cast) > MAX_CAST:
        color = ("red", "green", "blue")[errors.index(cast)]
        problem = f"The reconstructions have a color cast: {color} is off by {cast:+.1f} of 255 levels on average"
        return CheckResult(
            name, value, problem, "raise model.weights.mse, or train longer with a smaller learning rate"
        )
    return CheckResult(name, value)


def check_baselines(record: HealthRecord) -> CheckResult:
    """Say where the tokenizer stands. Being below a baseline is not a fault: GAN losses and high compression cost PSNR."""
    names = {BICUBIC: "bicubic", LINEAR_CODEC: "linear codec"}
    known = {label: record.psnr - record.baselines[name] for name, label in names.items() if name in record.baselines}
    if not known:
        return CheckResult("baselines", unchecked="no baseline was measured")
    return CheckResult("baselines", ", ".join(f"{gain:+.2f} dB against {label}" for label, gain in known.items()))


# Codes


def check_dead_parts(record: HealthRecord) -> CheckResult:
    """Look for bits and levels that never change, and for tokens in which all are dead."""
    name = "dead bits"
    counted = [usage for usage in record.codes if usage.parts is not None and usage.parts.kind != "codeword"]
    if not counted:
        return CheckResult(name, unchecked="the bottleneck has no bits or levels")
    values, problems = [], []
    for usage in counted:
        parts = usage.parts
        assert parts is not None
        if parts.positions < MIN_POSITIONS_OF_BITS:
            return CheckResult(name, unchecked=_too_few_positions(parts.positions, MIN_POSITIONS_OF_BITS))
        dead = parts.shares().amax(-1) >= DEAD_SHARE  # (G, P)
        unit = "bits" if parts.kind == "bit" else "channels"
        values.append(f"{int(dead.sum())} of {dead.numel()} {unit} are constant")
        if not dead.any():
            continue
        where = f"{_branch(usage)}{values[-1]} over {parts.positions} positions"
        tokens = [group for group, row in enumerate(dead) if bool(row.all())]
        if tokens:
            listed = ", ".join(map(str, tokens[:8])) + (", ..." if len(tokens) > 8 else "")
            where += f", all of token {listed}" if len(tokens) == 1 else f", all of tokens {listed}"
        problems.append(where)
    advice = _revive(record)
    return CheckResult(name, "; ".join(values), "; ".join(problems), advice if problems else "")


def check_capacity(record: HealthRecord) -> CheckResult:
    """Compare the entropy of the parts of the code that are not dead with the nominal bits of these parts."""
    name = "used bits"
    counted = [usage for usage in record.codes if usage.parts is not None]
    if not counted:
        return CheckResult(name, unchecked="the bottleneck has no tokens that can be counted")
    values, problems = [], []
    for usage in counted:
        parts = usage.parts
        assert parts is not None
        if parts.positions < MIN_POSITIONS:
            return CheckResult(name, unchecked=_too_few_positions(parts.positions))
        entropies, capacities = parts.entropies(), parts.capacities().expand(parts.counts.shape[:2])
        values.append(f"{float(entropies.sum()):.1f} of {float(capacities.sum()):.1f} bits per position")
        dead = parts.shares().amax(-1) >= DEAD_SHARE
        alive = ~dead if parts.kind != "codeword" else torch.ones_like(dead)  # dead ones are said by the check before
        used, nominal = float(entropies[alive].sum()), float(capacities[alive].sum())
        if used < MIN_USED_CAPACITY * nominal:
            unit = {"bit": " of the living bits", "level": " of the living channels", "codeword": ""}[parts.kind]
            of_what = f"{used:.1f} of {nominal:.1f} bits per position{unit if dead.any() else ''}"
            problems.append(f"{_branch(usage)}the code uses only {of_what}{_codewords(parts)}")
    advice = _revive(record)
    return CheckResult(name, "; ".join(values), _capitalize("; ".join(problems)), advice if problems else "")


def check_saturation(record: HealthRecord) -> CheckResult:
    """Look for FSQ channels at their outermost levels, where tanh has no gradient."""
    name = "saturation"
    values, problems = [], []
    for usage in record.codes:
        parts = usage.parts
        if parts is None or parts.kind != "level":
            continue
        if parts.positions < MIN_POSITIONS:
            return CheckResult(name, unchecked=_too_few_positions(parts.positions))
        shares = parts.shares()
        outer = [
            (shares[:, part, 0] + shares[:, part, size - 1]).tolist()
            for part, size in enumerate(parts.sizes)
            if size >= 4
        ]
        channels = [share for column in outer for share in column]
        if not channels:
            continue
        saturated = sum(share > SATURATED_SHARE for share in channels)
        values.append(f"{sum(channels) / len(channels):.0%} of the values at the outermost levels")
        if saturated > len(channels) / 4:
            problems.append(
                f"{_branch(usage)}{saturated} of {len(channels)} FSQ channels are saturated: {SATURATED_SHARE:.0%} or more "
                "of their values are at the outermost levels, where the gradient vanishes"
            )
    if not values:
        return CheckResult(name, unchecked="there is no FSQ with four or more levels")
    advice = _smaller_learning_rate(record.training) if problems else ""
    return CheckResult(name, "; ".join(values), "; ".join(problems), advice)


def check_kl(record: HealthRecord) -> CheckResult:
    """Look for KL channels that carry nothing."""
    name = "KL channels"
    for usage in record.codes:
        if usage.gaussian is None:
            continue
        if usage.gaussian.positions < MIN_POSITIONS:
            return CheckResult(name, unchecked=_too_few_positions(usage.gaussian.positions))
        information = usage.gaussian.information()
        collapsed = int((information < COLLAPSED_BITS).sum())
        count = len(information)
        value = (
            f"{collapsed} of {count} collapsed, {float(information.mean()):.2f} bits and "
            f"{float(usage.gaussian.divergences().mean()):.2f} nats per channel"
        )
        if collapsed <= MAX_COLLAPSED * count:
            return CheckResult(name, value)
        which = "All" if collapsed == count else f"{collapsed} of"
        problem = f"{which} {count} KL channels have collapsed: they carry less than {COLLAPSED_BITS} bits per position"
        return CheckResult(name, value, problem, _weaker(record.training, "kl"))
    return CheckResult(name, unchecked="there is no KL bottleneck")


# Losses


def check_discriminator(record: HealthRecord) -> CheckResult:
    """Compare the loss of the discriminator with that of guessing."""
    name = "discriminator"
    training = record.training
    if training is None:
        return CheckResult(name, unchecked="only the checkpoint of a run knows its losses")
    if training.chance is None:
        return CheckResult(name, unchecked="there is no GAN loss")
    loss = training.losses.get("discriminator")
    if loss is None or training.gan_steps < MIN_GAN_STEPS:
        return CheckResult(name, unchecked=f"the GAN losses have run for {training.gan_steps} steps")
    share = training.gradient_shares.get("adversarial")
    gradient = "" if share is None else f", and the adversarial loss has {share:.1%} of the gradient"
    value = f"loss {loss:.3f}, guessing {training.chance:.3f}{gradient}"
    if loss < WON * training.chance:
        problem = f"The discriminator has won: its loss is {loss:.3f}, guessing has {training.chance:.3f}{gradient}"
        advice = (
            "lower its learning rate (model.gan.learning_rate), give lecam a weight, start it later (model.gan.start), or "
            "raise model.weights.adversarial"
        )
        return CheckResult(name, value, problem, advice)
    if loss > LOST * training.chance:
        problem = (
            f"The discriminator has not learned: its loss is {loss:.3f}, guessing has {training.chance:.3f}{gradient}"
        )
        advice = "raise its learning rate (model.gan.learning_rate), or lower the weight of lecam"
        return CheckResult(name, value, problem, advice)
    return CheckResult(name, value)


def check_dominance(record: HealthRecord) -> CheckResult:
    """Look for a loss that has nearly all of the gradient."""
    name = "balance of losses"
    training = record.training
    if training is None:
        return CheckResult(name, unchecked="only the checkpoint of a run knows its losses")
    shares = training.gradient_shares
    if not shares:
        return CheckResult(name, unchecked="the gradients of the losses were not measured")
    others = {loss: share for loss, share in shares.items() if loss != PIXELS}
    value = ", ".join(f"{loss} {share:.0%}" for loss, share in shares.items()) + " of the gradient"
    largest = max(others, key=others.__getitem__, default=None)
    if largest is None or others[largest] < DOMINANT or PIXELS not in shares:
        return CheckResult(name, value)
    problem = f"The loss {largest} dominates: it has {others[largest]:.0%} of the gradient"
    return CheckResult(name, value, problem, _weaker(training, largest))


CHECKS: tuple[Check, ...] = (
    check_stuck, check_plateau, check_drop, check_baselines, check_colors, check_dead_parts, check_capacity,
    check_saturation, check_kl, check_discriminator, check_dominance,
)  # fmt: skip


# Sentences


def _smaller_learning_rate(training: TrainingRecord | None) -> str:
    rate = None if training is None else training.peak_learning_rate
    example = "" if rate is None else f" (--model.optimizer.lr {_third(rate):g})"
    return f"try a third of the learning rate{example}, or let `smalti find-lr` choose one"


def _third(rate: float) -> float:
    """Return about a third of a number, with one significant digit."""
    digits = math.floor(math.log10(rate / 3))
    return round(rate / 3, -digits)


def _weaker(training: TrainingRecord | None, loss: str) -> str:
    weight = None if training is None else training.weights.get(loss)
    example = "" if weight is None else f" (--model.weights.{loss} {weight / 10:g})"
    return f"try a tenth of its weight{example}"


def _revive(record: HealthRecord) -> str:
    """Return what to try against an unused code."""
    weights = {} if record.training is None else record.training.weights
    kinds = {usage.parts.kind for usage in record.codes if usage.parts is not None}
    if "codeword" in kinds:
        return "use a smaller codebook, or kmeans_init and dead_code_threshold of VQ, or SimVQ"
    if "bit" in kinds:
        weight = weights.get("codebook_entropy")
        example = "" if not weight else f" (--model.weights.codebook_entropy {2 * weight:g})"
        return f"make the weight of codebook_entropy more negative{example}, or use a smaller learning rate"
    return f"{_smaller_learning_rate(record.training)}, or use fewer levels"


def _codewords(parts: PartCounts) -> str:
    if parts.kind != "codeword":
        return ""
    used = (parts.counts > 0).sum(-1).flatten().tolist()
    return f" ({', '.join(map(str, used[:4]))} of {parts.sizes[0]} codewords are used)"


def _too_few_positions(positions: int, needed: int = MIN_POSITIONS) -> str:
    return f"the data has {positions} latent positions, fewer than {needed}"


def _too_few_validations(training: TrainingRecord | None, needed: int) -> str:
    if training is None:
        return "only the checkpoint of a run knows its earlier validations"
    return f"the run has {len(training.history)} validations, fewer than {needed}"


def _branch(usage: CodeUsage) -> str:
    return f"{usage.name} branch: " if usage.name else ""


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]
