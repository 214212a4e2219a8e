"""Loss and BLEU of checkpoints on one subset. Each checkpoint is measured once, and its measurement is kept in a file.

The name of the file is a hash of everything that the measurement depends on: the checkpoint, the data, the decoding and
the libraries. So a measurement of other data or options is never found. File paths and batch sizes are not
part of the hash, because they do not change the result.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.artifacts.writing import remove_leftover_files
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin
from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.evaluation.segments import read_segments
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.inference.loading import load_pair
from fairseq_kd.inference.opening import check_longest, check_positions, gold_batches
from fairseq_kd.inference.precision import check_loss_dtype
from fairseq_kd.loss.signal import ROWS_AT_A_TIME

FORMAT = 1
MEASURED = ("nll", "tokens", "bleu", "signature", "sentences", "parameters", "updates", "dictionary_check")
NOT_IN_KEY = ("max_tokens", "cpu")  # the key records the device instead of `cpu`


class Measurements:
    """Measures checkpoints and keeps the measurements in `folder`, one JSON file per checkpoint."""

    def __init__(
        self,
        folder,
        data_bin,
        subset: str,
        options: TranslateOptions,
        *,
        reference=None,
        post_process=None,
        tokenize=None,
        loss_dtype: str = "float32",
        lang_pair: str | None = None,
    ):
        """reference, post_process, tokenize, lang_pair: see `evaluate`. loss_dtype: of the products of the loss,
        float32 or bfloat16.

        Raises KDError when `data_bin` has no such subset, and when the device cannot use loss_dtype.
        """
        check_loss_dtype(options.device(), loss_dtype)
        self.folder, self.data_bin, self.subset, self.options = Path(folder), Path(data_bin), subset, options
        self.reference, self.post_process, self.tokenize = reference, post_process, tokenize
        self.loss_dtype, self.lang_pair = loss_dtype, lang_pair
        self._inputs = Inputs()
        decoding = {name: value for name, value in options.as_dict().items() if name not in NOT_IN_KEY}
        self.made_from = {
            "data": self._data(),
            "subset": subset,
            "post_process": post_process,
            "tokenize": tokenize or "by language",
            "decoding": decoding,
            "device": options.device().type,
            **({} if loss_dtype == "float32" else {"loss_dtype": loss_dtype}),
            **({} if lang_pair is None else {"lang_pair": lang_pair}),
            "versions": library_versions(),
        }

    def check(self) -> None:
        """Raises KDError where no score could be computed, before the loss of the first checkpoint is."""
        read_segments(self.data_bin, self.subset, self.reference, self.post_process)

    def known(self, sha256: str) -> dict | None:
        """The measurement of the checkpoint with this hash, or None. Raises KDError when its file is damaged."""
        path = self._path(sha256)
        remedy = "remove the file, and the checkpoint is measured again"
        found = read_record(path, remedy, required=("made_from", *MEASURED))
        if found is not None and found["made_from"] != self._key(sha256):
            raise KDError(
                f"{path} is a measurement of another checkpoint, of other data or with other options: {remedy}"
            )
        return found

    def measure(self, checkpoint, sha256: str, trust: bool = False) -> dict:
        """Compute the loss and BLEU of the checkpoint, and keep both.

        Raises KDError for input that cannot be used, and when the file has changed since it was hashed.
        """
        with self._inputs as inputs:
            inputs.watch(checkpoint)
            record = self._measured(checkpoint, sha256, trust)
            inputs.check()
            measured = inputs.loaded(checkpoint)  # from here on, the training may remove it
        if measured != sha256:
            raise KDError(f"{checkpoint} was changed while it was measured: run the command again after the training")
        write_record(self._path(sha256), record)
        return record

    def _measured(self, checkpoint, sha256: str, trust: bool) -> dict:
        nll, tokens = nll_of_checkpoint(
            self.data_bin,
            checkpoint,
            self.subset,
            max_tokens=self.options.max_tokens,
            device=self.options.device(),
            trust=trust,
            dtype=self.loss_dtype,
            lang_pair=self.lang_pair,
        )
        result = evaluate(
            self.data_bin,
            checkpoint,
            self.subset,
            self.options,
            reference=self.reference,
            post_process=self.post_process,
            tokenize=self.tokenize,
            trust=trust,
            lang_pair=self.lang_pair,
        )
        return {
            "format": FORMAT,
            "kind": "fairseq_kd measurement",
            "made_from": self._key(sha256),
            "nll": nll,
            "tokens": tokens,
            "bleu": result["bleu"]["score"],
            "signature": result["bleu"]["signature"],
            "sentences": result["sentences"],
            "parameters": result["parameters"],
            "updates": result["updates"],
            "dictionary_check": result["dictionary_check"],
        }

    def remove_leftovers(self) -> None:
        """Remove the temporary files of processes that were killed while they wrote measurements."""
        for leftover in self.folder.glob(".*.json.*"):
            remove_leftover_files(leftover.with_name(leftover.name[1:].rpartition(".")[0]))

    def _key(self, sha256: str) -> dict:
        return {"checkpoint": sha256, **self.made_from}

    def _path(self, sha256: str) -> Path:
        key = json.dumps(self._key(sha256), sort_keys=True)
        return self.folder / f"{sha256[:16]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

    def _data(self) -> dict[str, str]:
        """sha256 of the subset, its references and the dictionaries, by name."""
        check_data_bin(self.data_bin, "DATA_BIN")
        names = {
            str(path.relative_to(self.data_bin))
            for pattern in (f"{self.subset}.*", f"raw/{self.subset}.*", "dict.*.txt")
            for path in self.data_bin.glob(pattern)
        }
        if not any(name.startswith(f"{self.subset}.") for name in names):
            raise KDError(f"{self.data_bin} has no subset {self.subset!r} (--subset)")
        found = {name: self._inputs.sha256(self.data_bin / name) for name in sorted(names)}
        if self.reference is not None and Path(self.reference).is_file():
            found["--reference"] = self._inputs.sha256(self.reference)
        return found


def nll_of_checkpoint(
    data_bin,
    checkpoint,
    subset: str,
    *,
    max_tokens: int,
    device: torch.device,
    trust: bool = False,
    dtype="float32",
    lang_pair=None,
) -> tuple[float, int]:
    """(mean of -log2 p(token | source, gold prefix) over the target tokens of `subset`, number of these tokens).

    The loss is in bits per token, with EOS, without label smoothing; fairseq logs it as nll_loss. The
    dictionaries come from `data_bin`. max_tokens: tokens per batch, with padding. dtype: of the products, float32 or
    bfloat16. lang_pair: see `load_pair`.
    Raises KDError for a checkpoint or data-bin that cannot be used, and when the loss is not finite.
    """
    opened = {"data": data_bin, "trust": trust, "dtype": dtype, "signals_only": True, "lang_pair": lang_pair}
    model, task = load_pair(data_bin, checkpoint, subset, **opened)
    dataset = task.dataset(subset)
    check_positions(dataset.src_sizes, dataset.tgt_sizes, model.model.max_positions())
    check_longest(np.maximum(dataset.src_sizes, dataset.tgt_sizes), max_tokens)
    nats, tokens = 0.0, 0
    for sample, keep in gold_batches(dataset, task.target_dictionary.pad(), device, "loss", max_tokens):
        gold = sample["target"][keep]  # (N,)
        signal = model.signal(sample, keep)
        for start in range(0, len(gold), ROWS_AT_A_TIME):
            rows = signal.rows(start, start + ROWS_AT_A_TIME)  # (n, V)
            lprobs = rows.gather(1, gold[start : start + ROWS_AT_A_TIME].unsqueeze(1))
            nats -= lprobs.sum(dtype=torch.float64).item()
        tokens += len(gold)
    if not math.isfinite(nats):
        raise KDError(
            f"the loss of {checkpoint} on {subset!r} is not finite: its training diverged, or some of its weights are "
            "not finite. Move it out of the folder"
        )
    return nats / tokens / math.log(2), tokens
