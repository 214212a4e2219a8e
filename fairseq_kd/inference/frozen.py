"""From a checkpoint file to a frozen model, such as a teacher.

Three things that must not happen, each pinned by a test:

- The teacher must not become a sub-module of criterion, model or task: fairseq would save it with the student, offer
  it to the optimizer, wrap it for DDP and switch it back to dropout by `.train()`. `FrozenModel` is a plain object.
- It must not be built by the student's live task: `TranslationTask.build_model` replaces the task's sequence
  generator, and `--eval-bleu` would then score the teacher. It is built by a task of its own.
- Building it must not shift the random numbers of the student's training: the generator's state is put back.
"""

import contextlib
from pathlib import Path

import torch

from fairseq_kd.artifacts.data_bin import language_pairs
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.literals import NotALiteral
from fairseq_kd.core.paths import check_one_folder
from fairseq_kd.inference.checkpoint import TRUST, read_checkpoint
from fairseq_kd.inference.confinement import Budget, OverBudget, confined
from fairseq_kd.inference.dictionaries import check_same_dictionary, warn_if_newer
from fairseq_kd.inference.supported import check_configuration, check_model, output_projection
from fairseq_kd.loss.signal import DenseSignal

PRETRAINED = ("encoder_embed_path", "decoder_embed_path")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class FrozenModel:
    """A fairseq model that only answers: eval mode, no gradients, its own dtype, on the device of the batch."""

    def __init__(self, model, task, path, dtype: str = "float32"):
        """task: the one that the model was built by."""
        self.path = str(path)
        self.source_dictionary = task.source_dictionary
        self.target_dictionary = task.target_dictionary
        self.languages = (task.cfg.source_lang, task.cfg.target_lang)
        self.model = model.to(DTYPES[dtype]).requires_grad_(False).eval()
        self._device = torch.device("cpu")

    def check_dictionaries(self, source_dictionary, target_dictionary) -> None:
        """Raises KDError when the student's dictionaries differ in content from the teacher's."""
        check_same_dictionary(self.source_dictionary, source_dictionary, "source")
        check_same_dictionary(self.target_dictionary, target_dictionary, "target")

    @torch.no_grad()
    def signal(self, sample, keep: torch.Tensor, temperature: float = 1.0) -> DenseSignal:
        """Distributions over the next token at the N target positions where `keep` (B, T) is true.

        sample: a fairseq batch with "net_input". The log-probabilities are made when the signal is asked for them.
        Raises KDError when a sentence is longer than the teacher's positions.
        """
        net_input = sample["net_input"]
        self._check_lengths(net_input)
        device = net_input["prev_output_tokens"].device
        if device != self._device:
            self.model, self._device = self.model.to(device), device
        projection = output_projection(self.model)
        with torch.autocast(device.type, enabled=False):  # the student's mixed precision is not the teacher's
            if projection is not None:
                features = self.model(**net_input, features_only=True)[0]  # (B, T, d)
                return DenseSignal(features[keep], projection.detach(), temperature)
            net_output = self.model(**net_input)
            lprobs = self.model.get_normalized_probs(net_output, log_probs=True)  # (B, T, V)
            return DenseSignal(lprobs[keep].float(), None, temperature)

    def _check_lengths(self, net_input) -> None:
        limits = self.model.max_positions()
        lengths = (net_input["src_tokens"].size(1), net_input["prev_output_tokens"].size(1))
        for side, limit, length in zip(("source", "target"), limits, lengths, strict=True):
            if length > limit:
                raise KDError(
                    f"a {side} sentence has {length} tokens, teacher {self.path} has positions for {limit}: "
                    f"train with --max-{side}-positions {limit}"
                )


def load_frozen(path, *, data=None, languages=(None, None), dtype: str = "float32", trust: bool = False) -> FrozenModel:
    """Read a checkpoint of fairseq-train and build its model by a task of its own.

    data: folder with the teacher's dictionaries; None: the one recorded in the checkpoint.
    languages: (source, target), for a checkpoint that records none because fairseq-train inferred them.
    dtype: "float32", "float16" or "bfloat16". trust: see `read_checkpoint`.
    Raises KDError when the file or the dictionaries are missing or do not fit each other.
    """
    state = read_checkpoint(path, trust=trust)
    configure_own_task(path, state, data, languages)
    model, task = build_model(path, state, trust)
    return FrozenModel(model, task, path, dtype)


def configure_own_task(path, state, data=None, languages=(None, None), data_option="--teacher-data") -> str:
    """Complete the task's configuration inside `state` so that it can be set up where the process runs.

    Returns the data-bin that the checkpoint records.
    state: what `read_checkpoint` returned; changed in place. data, languages: see `load_frozen`.
    Raises KDError when the dictionaries are missing, and for a task or an architecture that is not supported.
    """
    from omegaconf import open_dict

    cfg = state["cfg"]
    check_configuration(path, cfg)
    recorded = data_folder(cfg.task)
    if data is not None:
        check_one_folder(data, data_option)
    with open_dict(cfg):
        if data is not None:
            cfg.task.data = str(data)
        if "eval_bleu" in cfg.task:
            cfg.task.eval_bleu = False  # no generator is needed, and its options may be gone
        for name in PRETRAINED:  # files that the weights of the checkpoint would replace at once
            if name in cfg.model:
                setattr(cfg.model, name, None)
        _fill_in_languages(path, cfg.task, languages)
    _check_dictionaries_exist(path, cfg.task, given=data is not None, option=data_option)
    return recorded


def data_folder(task_cfg) -> str:
    """The data-bin of a task's configuration, the first where it has several."""
    return str(task_cfg.data).split(":")[0]


def build_model(path, state, trust: bool = False):
    """Build the model of a checkpoint by a task of its own and load its weights; return (model, task).

    state: what `configure_own_task` completed. trust: let fairseq evaluate options that are not literals, and let the
    model be far larger than its weights.
    Raises KDError when dictionaries and weights do not fit, and for a model that is not supported.
    """
    from fairseq import checkpoint_utils

    budget = contextlib.nullcontext() if trust else Budget(state["model"])
    with _one_clear_error(path, state["cfg"]), torch.random.fork_rng(devices=[]), confined(trust), budget:
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    check_model(models[0], f"the model of {path}")
    return models[0], task


def _fill_in_languages(path, task_cfg, languages) -> None:
    """fairseq-train records no languages when it inferred them from the names of the data files."""
    if task_cfg.source_lang and task_cfg.target_lang:
        return
    folder = Path(data_folder(task_cfg))
    pairs = language_pairs(folder) if folder.is_dir() else []
    task_cfg.source_lang, task_cfg.target_lang = pairs[0] if len(pairs) == 1 else languages
    if not all((task_cfg.source_lang, task_cfg.target_lang)):
        raise KDError(
            f"{path} does not record its languages, and the files of {folder} do not name one pair to take; "
            "give its data-bin"
        )


def _check_dictionaries_exist(path, task_cfg, given: bool, option: str) -> None:
    folder = data_folder(task_cfg)
    for lang in (task_cfg.get("source_lang"), task_cfg.get("target_lang")):
        dictionary = Path(folder) / f"dict.{lang}.txt"
        if lang is not None and not dictionary.is_file():
            where = f"given by {option}" if given else "recorded in the checkpoint"
            raise KDError(
                f"{dictionary} is not there ({folder!r} is the folder {where}); {path} was trained with that "
                f"dictionary. Say where it is now: {option} FOLDER"
            )
        if lang is not None and not given:
            warn_if_newer(dictionary, path)


@contextlib.contextmanager
def _one_clear_error(path, cfg):
    try:
        yield
    except (NotALiteral, OverBudget) as error:
        raise KDError(f"the model of {path} cannot be built: {error}. {TRUST}") from error
    except KDError:
        raise
    except Exception as error:  # with options or dictionaries that are not its own, an architecture can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        architecture = getattr(cfg.model, "arch", None) or getattr(cfg.model, "_name", "unknown")
        raise KDError(
            f"the model of {path} (architecture {architecture}) cannot be built: {reason}. Either its dictionaries "
            "are not those it was trained with, or its architecture comes from another folder of code (--user-dir)"
        ) from error
