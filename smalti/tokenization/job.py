"""The description of a job: everything that `smalti tokenize-dataset` needs in each process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.data import Source, open_source
from smalti.errors import SmaltiError
from smalti.export.id_types import smallest_id_type
from smalti.export.packed_bits import bits_per_id
from smalti.export.vocabulary import VisualVocabulary
from smalti.export.vocabulary.manifest_file import FILE_NAME as VOCABULARY_FILE
from smalti.export.vocabulary.manifest_file import save_vocabulary
from smalti.tokenization.columns import check_columns, find_columns
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.formats import find_format
from smalti.tokenization.formats.megatron import sequence_type
from smalti.tokenization.preprocessing import Preprocessing, check_protocol, plan_versions
from smalti.tokenization.reduction import ARRAYS, Reduction
from smalti.tokenization.shard_output import merge_sums, read_json, write_json
from smalti.tokenization.storage import FLOAT_TYPES
from smalti.tokenization.units import MANIFEST, Unit, plan_units
from smalti.tokenization.vocabulary import check_vocabulary, digest_vocabulary, open_vocabulary
from smalti.tokenizers.bottlenecks import KL
from smalti.tokenizers.checkpoints import fingerprint
from smalti.tokenizers.opening import open_tokenizer
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.version import __version__

TOKENIZER_STATISTICS = "tokenizer"
"""Value of `Job.normalize` for the statistics that were measured in training."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job. The attributes up to `columns` determine what is written; the others only how fast.

    Attributes:
        tokenizer: path of an exported tokenizer or a checkpoint.
        data: specification of the source; see `smalti.data.open_source`.
        out: folder to write to.
        format: name of the format.
        protocols: names of the protocols of the versions.
        augmentations: number of random augmentations; see `plan_versions`.
        all_clips: whether to cut each video into consecutive clips.
        seed: seed for the augmentations.
        samples_per_shard: samples per shard of a source that does not consist of shards.
        branch: branch of a joint tokenizer; None for the discrete one.
        tile: height and width of tiles in pixels; None for whole frames.
        precision: "float32", the precision of the weights, or "bfloat16" for autocast.
        dtype: type of latents; None for float32. Ids get the smallest type.
        log_variance: whether to store the log-variance of latents too.
        normalize: None to store latents as they are; `TOKENIZER_STATISTICS`, or the folder of a dataset of latents, to
            normalize each channel by these statistics.
        pack_bits: whether to store ids without unused bits.
        vocabulary: path of a vocabulary whose ids are stored; None for the tokenizer's ids.
        reduce: reducer of the latents, see `smalti.reducers.parse_reducer`; None to store ids, or all latents.
        saliency: what a reducer that selects keeps: one of `smalti.eval.latent_saliency.SALIENCY`.
        columns: columns to keep; None for those that the first samples have.
        batch_size: samples per batch. Another one can change an id whose decision is a tie up to rounding.
        workers: number of processes that load data for each device.
        max_bad: maximum fraction of samples that cannot be read, plus the fraction of damaged shards.
        device: device to compute on.
    """

    tokenizer: str
    data: str
    out: str
    format: str
    protocols: tuple[str, ...]
    augmentations: int = 0
    all_clips: bool = False
    seed: int = 0
    samples_per_shard: int = 10_000
    branch: str | None = None
    tile: int | None = None
    precision: str = "float32"
    dtype: str | None = None
    log_variance: bool = False
    normalize: str | None = None
    pack_bits: bool = False
    vocabulary: str | None = None
    reduce: str | None = None
    saliency: str = "contrast"
    columns: tuple[str, ...] | None = None
    batch_size: int = 64
    workers: int = 2
    max_bad: float = 0.01
    device: str = "cpu"


class OpenedJob:
    """A job whose data and tokenizer are opened, and which fits what its folder already contains.

    Opening it writes the description of the dataset, if there is none.

    Args:
        job: the job.

    Attributes:
        source: the images or videos.
        units: all units of the source.
        preprocessing: prepares samples.
        info: what each shard carries.
        tokenizer: on its device.
        vocabulary: the vocabulary whose ids are stored; None for the tokenizer's ids.
        reduction: the reduction of the latents; None without one.

    Raises:
        SmaltiError: something in the job is invalid, or its folder has the result of another one.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.out = Path(job.out)
        self.source = open_source(job.data, videos=None)
        versions = plan_versions(job.protocols, job.augmentations, job.seed)
        check_protocol(self.source, versions[0].protocol)
        if job.all_clips and not self.source.videos:
            raise SmaltiError("Consecutive clips are cut from videos, but the data are images: leave out --all-clips.")
        self.preprocessing = Preprocessing(versions, all_clips=job.all_clips)
        self.units = plan_units(self.source, job.samples_per_shard)
        columns = find_columns(self.source) if job.columns is None else tuple(sorted(job.columns))
        self.tokenizer = open_tokenizer(job.tokenizer, job.device, job.branch, job.tile)
        self.vocabulary: VisualVocabulary | None = None
        if job.vocabulary is not None:
            self.vocabulary = open_vocabulary(Path(job.vocabulary), fingerprint(job.tokenizer))
            if self.tokenizer.discrete:  # `_describe` refuses a vocabulary for latents
                check_vocabulary(self.vocabulary, self.tokenizer, [version.protocol for version in versions])
        self.reduction = None if job.reduce is None else Reduction.parse(job.reduce, job.saliency)
        preprocessing = [version.describe() for version in versions]
        self.info = _describe(job, self, preprocessing, columns)
        check_columns(columns, self.info.arrays)
        find_format(job.format).check(self.info)
        check_manifest(self.out, self.info, self.source, self.units)
        if self.vocabulary is not None and not (self.out / VOCABULARY_FILE).exists():
            save_vocabulary(self.out / VOCABULARY_FILE, self.vocabulary)


def _describe(
    job: Job, opened: OpenedJob, preprocessing: list[dict[str, Any]], columns: tuple[str, ...]
) -> DatasetInfo:
    """Return what each shard carries.

    Raises:
        SmaltiError: an option is for the other kind of tokenizer.
    """
    import torch

    common: dict[str, Any] = {
        "format": job.format,
        "fingerprint": fingerprint(job.tokenizer),
        "tokenizer": Path(job.tokenizer).resolve().name,
        "branch": job.branch,
        "tile": job.tile,
        "precision": job.precision,
        "preprocessing": tuple(preprocessing),
        "columns": columns,
        "smalti": __version__,
        "torch": str(torch.__version__),
    }
    tokenizer = opened.tokenizer
    if opened.reduction is not None:
        return DatasetInfo(**common, **_describe_reduced(job, tokenizer, opened.reduction))
    if tokenizer.discrete:
        return DatasetInfo(**common, **_describe_tokens(job, tokenizer, opened.vocabulary))
    return DatasetInfo(**common, **_describe_latents(job, tokenizer))


def _describe_tokens(job: Job, tokenizer: Tokenizer, vocabulary: VisualVocabulary | None) -> dict[str, Any]:
    for option, value in {
        "--dtype": job.dtype,
        "--log-variance": job.log_variance,
        "--normalize": job.normalize,
    }.items():
        if value:
            raise SmaltiError(
                f"{option} is for continuous latents, but this tokenizer gives ids: leave it out, or choose the continuous "
                "branch of a joint tokenizer with --as continuous."
            )
    if vocabulary is not None and job.pack_bits:
        raise SmaltiError(
            "--pack-bits is for the ids of a tokenizer, not for those of a vocabulary: leave one of them out."
        )
    quantizer = tokenizer.quantizer
    size = quantizer.codebook_size if vocabulary is None else vocabulary.rows
    dtype = sequence_type(size) if job.format == "megatron" else smallest_id_type(size)
    return {
        "kind": "tokens",
        "arrays": ("ids",) if vocabulary is None else ("input_ids",),
        "dtype": dtype,
        "packed_bits": bits_per_id(size) if job.pack_bits else None,
        "codebook_size": str(quantizer.codebook_size),
        "tokens_per_position": quantizer.tokens_per_position,
        "statistics": None,
        "vocabulary": None if vocabulary is None else digest_vocabulary(vocabulary),
    }


def _describe_latents(job: Job, tokenizer: Tokenizer) -> dict[str, Any]:
    for option, value in {"--pack-bits": job.pack_bits, "--vocabulary": job.vocabulary}.items():
        if value:
            raise SmaltiError(f"{option} is for ids, but this tokenizer gives continuous latents: leave it out.")
    if job.log_variance and not isinstance(tokenizer.bottleneck, KL):
        raise SmaltiError(
            f"{type(tokenizer.bottleneck).__name__} has no log-variance, which KL has: leave out --log-variance."
        )
    return {
        "kind": "latents",
        "arrays": ("mean", "log_variance") if job.log_variance else ("mean",),
        "dtype": _latent_type(job),
        "packed_bits": None,
        "codebook_size": None,
        "tokens_per_position": tokenizer.bottleneck.out_dim,
        "statistics": None if job.normalize is None else _read_statistics(job.normalize, tokenizer),
        "vocabulary": None,
    }


def _describe_reduced(job: Job, tokenizer: Tokenizer, reduction: Reduction) -> dict[str, Any]:
    refused = {
        "--pack-bits": job.pack_bits,
        "--vocabulary": job.vocabulary,
        "--log-variance": job.log_variance,
        "--normalize": job.normalize,
    }
    for option, value in refused.items():
        if value:
            raise SmaltiError(f"{option} is not for reduced latents: leave out {option} or --reduce.")
    if reduction.saliency == "surprise" and not tokenizer.discrete:
        raise SmaltiError("--saliency surprise needs ids, but this tokenizer is continuous: choose contrast or norm.")
    return {
        "kind": "reduced",
        "arrays": ARRAYS,
        "dtype": _latent_type(job),
        "packed_bits": None,
        "codebook_size": None,
        "tokens_per_position": tokenizer.bottleneck.out_dim,
        "statistics": None,
        "vocabulary": None,
        "reduction": reduction.describe(),
    }


def _latent_type(job: Job) -> str:
    """Return the type of stored latents.

    Raises:
        SmaltiError: there is no such type.
    """
    dtype = job.dtype or "float32"
    if dtype not in FLOAT_TYPES:
        raise SmaltiError(f"There is no type '{dtype}' for latents: choose {', '.join(FLOAT_TYPES)}.")
    return dtype


def _read_statistics(origin: str, tokenizer: Tokenizer) -> dict[str, list[float]]:
    """Return the statistics to normalize by.

    Raises:
        SmaltiError: there are none, or they have another number of channels or a standard deviation of 0.
    """
    if origin == TOKENIZER_STATISTICS:
        found = tokenizer.latent_statistics
        if found is None:
            raise SmaltiError(
                "The statistics of this tokenizer's latents were not measured in training: tokenize some data without "
                "--normalize, and pass its folder to --normalize."
            )
        mean, std = found.mean.tolist(), found.std.tolist()
    else:
        from smalti.tokenization.token_dataset import TokenDataset

        measured = merge_sums(TokenDataset(origin).markers)
        if measured is None:
            raise SmaltiError(f"{origin} has no latents, whose statistics could be used: pass a dataset of latents.")
        mean, std = measured
    if len(mean) != tokenizer.bottleneck.out_dim or min(std) <= 0:
        raise SmaltiError(
            f"The statistics of {origin} are for {len(mean)} channels with standard deviations from {min(std):g} on, but "
            f"this tokenizer has {tokenizer.bottleneck.out_dim}, and each needs a positive one: measure them with it."
        )
    return {"mean": mean, "std": std}


def check_manifest(out: Path, info: DatasetInfo, source: Source, units: list[Unit]) -> None:
    """Check that a folder is empty or has the result of the same job, and describe the dataset there.

    Raises:
        SmaltiError: the folder has something else, or cannot be written.
    """
    from smalti.data import IndexedSource
    from smalti.files import check_writable

    file = out / MANIFEST
    # Shards are identified by name: one that was damaged may be replaced by a complete one.
    data = {
        "source": source.digest() if isinstance(source, IndexedSource) else None,
        "shards": [unit.name for unit in units],
    }
    content = info.to_dict() | {"data": data}
    if file.is_file():
        present = DatasetInfo.from_dict(found := read_json(file), file)
        if (difference := present.find_difference(info)) is not None:
            raise SmaltiError(
                f"{out} has shards with another {difference} ({_short(getattr(present, difference))}, now "
                f"{_short(getattr(info, difference))}): choose another --out, or delete the folder."
            )
        if found.get("data") != data:
            raise SmaltiError(f"{out} has the shards of other data: choose another --out, or delete the folder.")
        return
    check_writable(out)
    if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise SmaltiError(f"{out} is not empty and has no token dataset: choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
