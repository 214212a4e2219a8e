"""Loss and BLEU of checkpoints on one subset, each measured once and kept.

What a measurement depends on (the checkpoint, the data, the decoding, the libraries) is hashed into the name of its
file, so one that was made from something else is never found. Places and the size of batches are left out.
"""

import hashlib
import json
from pathlib import Path

from fairseq_kd.artifacts.manifest import library_versions, sha256_file, write_json
from fairseq_kd.artifacts.records import read_record, sealed
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin
from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.evaluation.gold import nll_of_checkpoint
from fairseq_kd.evaluation.system import TranslateOptions

FORMAT = 1
MEASURED = ("nll", "tokens", "bleu", "signature", "sentences", "parameters", "updates", "dictionary_check")
NOT_IN_KEY = ("max_tokens", "cpu")  # the device says what `cpu` does


class Measurements:
    """Measures checkpoints and remembers what it found in `folder`, one JSON file a checkpoint."""

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
    ):
        """reference, post_process, tokenize: see `evaluate`. Raises KDError when `data_bin` has no such subset."""
        self.folder, self.data_bin, self.subset, self.options = Path(folder), Path(data_bin), subset, options
        self.reference, self.post_process, self.tokenize = reference, post_process, tokenize
        decoding = {name: value for name, value in options.as_dict().items() if name not in NOT_IN_KEY}
        self.made_from = {
            "data": self._data(),
            "subset": subset,
            "post_process": post_process,
            "tokenize": tokenize or "by language",
            "decoding": decoding,
            "device": options.device().type,
            "versions": library_versions(),
        }

    def known(self, sha256: str) -> dict | None:
        """The measurement of the checkpoint with this hash, or None. Raises KDError when its file is damaged."""
        path = self._path(sha256)
        remedy = "remove the file, and the checkpoint is measured again"
        found = read_record(path, remedy, required=("made_from", *MEASURED))
        if found is not None and found["made_from"] != self._key(sha256):
            raise KDError(f"{path} is the measurement of something else: {remedy}")
        return found

    def measure(self, checkpoint, sha256: str, trust: bool = False) -> dict:
        """Compute the loss of the checkpoint, translate and score, keep both.

        Raises KDError for whatever cannot be used, and when the file has changed since it was hashed.
        """
        nll, tokens = nll_of_checkpoint(
            self.data_bin,
            checkpoint,
            self.subset,
            max_tokens=self.options.max_tokens,
            device=self.options.device(),
            trust=trust,
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
        )
        if sha256_file(checkpoint) != sha256:
            raise KDError(f"{checkpoint} was changed while it was measured: run the command after the training")
        record = {
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
        write_json(self._path(sha256), sealed(record))
        return record

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed while it wrote has left."""
        for leftover in self.folder.glob(".*.json.*"):
            leftover.unlink(missing_ok=True)

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
        found = {name: sha256_file(self.data_bin / name) for name in sorted(names)}
        if self.reference is not None and Path(self.reference).is_file():
            found["--reference"] = sha256_file(self.reference)
        return found
