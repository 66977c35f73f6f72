"""Faults for test_faults.py, imported with --import. The variable FAULT has the fault, its rank and its step."""

import os
import signal

from smalti.data import Photos
from smalti.errors import SmaltiError
from smalti.trainers import TokenizerTraining

_FAULT, _RANK, _STEP = os.environ["FAULT"].split(":")
_module = None


def _is_due(module):
    return module is not None and (module.global_rank, module.global_step) == (int(_RANK), int(_STEP))


def _on_train_batch_start(module, batch, batch_idx, original=TokenizerTraining.on_train_batch_start):
    global _module
    _module = module
    if _FAULT.startswith("SIG") and _is_due(module):
        os.kill(os.getpid(), signal.Signals[_FAULT])
    return original(module, batch, batch_idx)


TokenizerTraining.on_train_batch_start = _on_train_batch_start


class FaultyPhotos(Photos):
    def __getitem__(self, index):
        if _FAULT == "data" and _is_due(_module):
            raise SmaltiError("The disk with the photos is gone.")
        return super().__getitem__(index)
