"""Reading token datasets: random access, slices, arrays, pixels for inspection, and a view for Hugging Face's datasets.

Shapes: N positions, G tokens per position, C channels.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from smalti.errors import MissingExtraError, SmaltiError
from smalti.export.vocabulary import VisualVocabulary
from smalti.export.vocabulary.manifest_file import FILE_NAME as VOCABULARY_FILE
from smalti.export.vocabulary.manifest_file import load_vocabulary
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.formats import ShardReader, find_format
from smalti.tokenization.reduction import expand_row
from smalti.tokenization.rows import Columns, Row
from smalti.tokenization.shard_output import MARKER_SUFFIX, Marker, merge_sums, read_json
from smalti.tokenization.storage import latents_from_numpy, unpack_sample
from smalti.tokenization.units import MANIFEST, RESERVED_NAMES
from smalti.tokenization.vocabulary import digest_vocabulary, restore_shape
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Code, Latents, Layout, TokenGrid

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class TokenSample:
    """A row of a token dataset.

    Attributes:
        key: name of the sample in the source; of a clip, with its start in seconds.
        version: index of the preprocessing or augmentation, see `DatasetInfo.preprocessing`.
        layout: the latent grids, the size and the number of frames.
        rate: frames per second of a clip; None for an image.
        columns: captions and other data of the sample.
        ids: (N, G) int64 tokens of the tokenizer; None for latents and for ids of a vocabulary.
        input_ids: (L,) int64 ids of a language model, with their wrappers; None without a vocabulary.
        mean: (N, C) latents as they are stored, possibly normalized; None for tokens.
        log_variance: (N, C) log-variance of the latents; None if it is not stored.
        reduced: (L, D) reduced latents, one time step after the other; None without a reducer.
        lengths: (t,) int64 number of reduced latents of each time step.
        assignment: (N,) int64 reduced latent of its time step that represents each position, -1 if it was dropped.
        sizes: (L,) total weight of the latents in each reduced one.
    """

    key: str
    version: int
    layout: Layout
    rate: Fraction | None
    columns: Columns
    ids: Tensor | None = None
    input_ids: Tensor | None = None
    mean: Tensor | None = None
    log_variance: Tensor | None = None
    reduced: Tensor | None = None
    lengths: Tensor | None = None
    assignment: Tensor | None = None
    sizes: Tensor | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is not None as one dictionary, columns included, for libraries that expect one."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        del values["layout"], values["columns"]
        rate = {} if self.rate is None else {"rate": float(self.rate)}
        layout = {"size": self.layout.size, "frames": self.layout.frames, "grids": self.layout.grids}
        return values | rate | layout | self.columns


class TokenDataset(Dataset[TokenSample]):
    """The rows of a token dataset, in the order of its source: of all shards that are done.

    `dataset[5]` is a row, `dataset[5:8]` a list of rows. Shards are opened when they are needed, in each process anew.

    Args:
        path: folder that `smalti tokenize-dataset` wrote.

    Attributes:
        info: what every shard carries: the fingerprint of the tokenizer, the preprocessing, the types.
        markers: what is known about each shard that is done.
        unfinished: names of the shards that are not done, because `smalti tokenize-dataset` is running or was interrupted.

    Raises:
        SmaltiError: the folder is no token dataset, a file is missing or has another size, or a shard does not belong
            to the others because it was made by another tokenizer or with other settings.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            raise SmaltiError(
                f"{self.path} is no token dataset (it has no {manifest.name}): pass a folder of `smalti tokenize-dataset`."
            )
        content = read_json(manifest)
        self.info = DatasetInfo.from_dict(content, manifest)
        self._format = find_format(self.info.format)
        names = self._shard_names(content, manifest)
        self.markers = [marker for name in names if (marker := self._read_marker(name))]
        self.unfinished = sorted({*names} - {marker.name for marker in self.markers})
        self._ends = list(accumulate(marker.rows for marker in self.markers))
        self._readers: dict[int, ShardReader] = {}

    def _shard_names(self, content: Any, manifest: Path) -> list[str]:
        """Return the names of the shards in order.

        Raises:
            SmaltiError: the description is damaged, or the folder contains shards that it does not know.
        """
        try:
            names = [str(name) for name in content["data"]["shards"]]
        except (KeyError, TypeError) as error:
            raise SmaltiError(f"{manifest} is damaged (it names no shards): tokenize the dataset again.") from error
        known = {*names, *RESERVED_NAMES}
        for file in self.path.glob(f"*{MARKER_SUFFIX}"):
            if file.name.removesuffix(MARKER_SUFFIX) not in known:
                raise SmaltiError(
                    f"{file} is not of this dataset, which {manifest.name} describes: move the files of each dataset to a "
                    "folder of its own."
                )
        return names

    def _read_marker(self, name: str) -> Marker | None:
        """Return the marker of a shard; None if it is not done.

        Raises:
            SmaltiError: the shard does not belong to the dataset, or a file is missing or has another size.
        """
        file = self.path / f"{name}{MARKER_SUFFIX}"
        if not file.is_file():
            return None
        marker = Marker.read(file)
        if (difference := self.info.find_difference(marker.info)) is not None:
            what = "by another tokenizer" if difference == "fingerprint" else f"with another {difference}"
            raise SmaltiError(
                f"The shard {file} was made {what} than the others: keep the shards of one job in a folder."
            )
        if (missing := marker.find_missing(self.path)) is not None:
            raise SmaltiError(
                f"{self.path / missing} is missing or truncated: run `smalti tokenize-dataset` again, which writes it anew."
            )
        return marker

    @cached_property
    def vocabulary(self) -> VisualVocabulary:
        """The vocabulary whose ids are stored.

        Raises:
            SmaltiError: the dataset has ids of the tokenizer, or its vocabulary was changed.
        """
        if self.info.vocabulary is None:
            raise SmaltiError(f"{self.path} has no vocabulary: it was tokenized without --vocabulary.")
        file = self.path / VOCABULARY_FILE
        vocabulary = load_vocabulary(file)
        if digest_vocabulary(vocabulary) != self.info.vocabulary:
            raise SmaltiError(f"{file} is not the vocabulary of this dataset: copy the one that it was made with.")
        return vocabulary

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Key, with the name of its shard, and reason of each sample that is missing, and of each damaged input shard."""
        samples = [(f"{m.name}/{key}", reason) for m in self.markers for key, reason in m.failures]
        return samples + [(marker.name, marker.damage) for marker in self.markers if marker.damage is not None]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> TokenSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenSample]: ...
    def __getitem__(self, index: int | slice) -> TokenSample | list[TokenSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._to_sample(self._read_row(range(len(self))[index]))

    def __iter__(self) -> Iterator[TokenSample]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files: each process opens its own."""
        return {**self.__dict__, "_readers": {}}

    def tokens(self, index: int) -> TokenGrid:
        """Return the tokens of a row for `Tokenizer.detokenize`, ids (1, N, G).

        Raises:
            SmaltiError: the dataset has latents.
        """
        sample = self[index]
        layout = sample.layout
        if sample.input_ids is not None:
            sequence = restore_shape(self.vocabulary, sample.input_ids.numpy())
            return self.vocabulary.from_ids([sequence], layout)
        if sample.ids is None:
            raise SmaltiError(f"{self.path} has latents, and no tokens: use `latents`.")
        return TokenGrid(ids=sample.ids[None], grids=layout.grids, size=layout.size, frames=layout.frames)

    def latents(self, index: int) -> Latents:
        """Return the latents of a row for `Tokenizer.decode`, z (1, N, C) float32 without normalization.

        Reduced latents are spread over their positions.

        Raises:
            SmaltiError: the dataset has no latents.
        """
        sample = self[index]
        if self.info.reduction is not None:
            arrays = {name: getattr(sample, name) for name in self.info.arrays}
            return expand_row(self.info.reduction, **arrays, layout=sample.layout)
        if sample.mean is None:
            raise SmaltiError(f"{self.path} has {', '.join(self.info.arrays)}, and no latents.")
        z, log_variance = sample.mean.float(), sample.log_variance
        log_variance = None if log_variance is None else log_variance.float()
        if self.info.statistics is not None:
            mean, std = (torch.tensor(self.info.statistics[name]) for name in ("mean", "std"))
            z = z * std + mean
            log_variance = None if log_variance is None else log_variance + 2 * std.log()
        code = Code(z[None], log_variance=None if log_variance is None else log_variance[None])
        return Latents(code=code, grids=sample.layout.grids, size=sample.layout.size, frames=sample.layout.frames)

    @torch.inference_mode()
    def decode(self, index: int, tokenizer: Tokenizer, generator: torch.Generator | None = None) -> Tensor:
        """Decode a row to pixels, to inspect what was tokenized.

        Args:
            index: index of the row.
            tokenizer: the tokenizer that made the dataset, or its branch. Its fingerprint is that of `info`, if it was
                loaded from the same files.
            generator: source of a generative decoder's noise.

        Returns:
            (1, 3, H, W) or (1, 3, T, H, W), approximately in [-1, 1].

        Raises:
            SmaltiError: the row is not of this kind of tokenizer.
        """
        device = next(tokenizer.parameters()).device
        if self.info.kind == "tokens":
            return tokenizer.detokenize(self.tokens(index).to(device), generator)
        return tokenizer.decode(self.latents(index).to(device), generator)

    def to_array(self, name: str | None = None) -> np.ndarray:
        """Return one array with a stored array of every row.

        Args:
            name: one of `info.arrays`; None for the first.

        Returns:
            (rows, N, G) ids int64, or (rows, N, C) latents, in float32 if they are stored as bfloat16.

        Raises:
            SmaltiError: there is no such array, or rows have different shapes.
        """
        name = name or self.info.arrays[0]
        if name not in self.info.arrays:
            raise SmaltiError(f"{self.path} has no {name}: choose {', '.join(self.info.arrays)}.")
        values = [getattr(sample, name) for sample in self]
        if len({value.shape for value in values}) > 1:
            raise SmaltiError(
                f"The rows of {self.path} have different numbers of positions, which no array holds: tokenize them with a "
                "--protocol with a fixed size, such as square256."
            )
        stacked = torch.stack(values) if values else torch.empty(0)
        return (stacked.float() if stacked.dtype == torch.bfloat16 else stacked).numpy()

    def statistics(self) -> tuple[list[float], list[float]] | None:
        """Return mean and standard deviation of each channel of the latents, before any normalization; None for tokens."""
        return merge_sums(self.markers)

    def to_hugging_face(self) -> datasets.Dataset:
        """Return a view as a dataset of Hugging Face's `datasets`, which reads rows when they are asked for.

        Its rows have the columns of `TokenSample.to_dict`.

        Raises:
            MissingExtraError: `datasets` is not installed.
        """
        try:
            import datasets
        except ImportError:
            raise MissingExtraError("datasets", "hf", "Views for Hugging Face") from None

        view = datasets.Dataset.from_dict({"index": range(len(self))})

        def read(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            rows = [self[index].to_dict() for index in batch["index"]]
            names = dict.fromkeys(name for row in rows for name in row)
            return {name: [row.get(name) for row in rows] for name in names}

        view.set_transform(read)
        return view

    def _read_row(self, index: int) -> Row:
        shard = bisect_right(self._ends, index)
        if shard not in self._readers:
            self._readers[shard] = self._open(self.markers[shard])
        return self._readers[shard].read(index - (self._ends[shard - 1] if shard else 0))

    def _open(self, marker: Marker) -> ShardReader:
        reader = self._format.read(self.path / marker.name, self.info)
        if len(reader) != marker.rows:
            raise SmaltiError(
                f"The shard {self.path / marker.name} has {len(reader)} rows instead of {marker.rows}: it is damaged; "
                "delete it, and run `smalti tokenize-dataset` again."
            )
        return reader

    def _to_sample(self, row: Row) -> TokenSample:
        info, layout = self.info, row.layout
        values: dict[str, Tensor] = {}
        for name, stored in row.arrays.items():
            if name == "ids" and info.packed_bits:
                values[name] = unpack_sample(stored, info.packed_bits, (layout.positions, info.tokens_per_position))
            elif info.kind == "tokens" or name in ("lengths", "assignment"):
                values[name] = torch.from_numpy(stored.astype(np.int64))
            else:
                values[name] = latents_from_numpy(stored, "float32" if name == "sizes" else info.dtype)
        return TokenSample(row.key, row.version, layout, row.rate, row.columns, **values)
