"""Load a checkpoint as a frozen model, such as a teacher in a training or the evaluated system.

In a training, three things must not happen; a test holds each of them:

- The frozen model must not become a sub-module of criterion, model or task. fairseq would save it with the student,
  give it to the optimizer, wrap it for DDP and switch dropout on with `.train()`. So `FrozenModel` is a plain object.
- The student's task must not build it: `TranslationTask.build_model` replaces the task's sequence generator, and
  `--eval-bleu` would then score the frozen model. So it has a separate task.
- Building it must not change the random numbers of the student's training. So the generator's state is restored.
"""

import contextlib
import copy
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fairseq_kd.artifacts.data_bin import language_pairs
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.literals import NotALiteral
from fairseq_kd.core.paths import check_one_folder
from fairseq_kd.inference.checkpoint import TRUST, read_checkpoint, validation_nll
from fairseq_kd.inference.confinement import Budget, OverBudget, confined
from fairseq_kd.inference.dictionaries import check_same_dictionary, warn_if_newer
from fairseq_kd.inference.multilingual import added_tokens, layout_of, multilingual_task
from fairseq_kd.inference.multilingual_options import own_options, warn_if_not_opened
from fairseq_kd.inference.precision import autocast
from fairseq_kd.inference.supported import check_configuration, check_model, output_projection
from fairseq_kd.loss.signal import DenseSignal

PRETRAINED = ("encoder_embed_path", "decoder_embed_path")
# Not cuDNN's attention: in half precision it builds a plan for each new shape of a batch, which takes longer than the
# forward pass.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class FrozenModel:
    """A fairseq model for inference: eval mode, no gradients, its own dtype, on the device of the batch.

    validation_nll: in nats per token, if its checkpoint records it, else None.
    """

    validation_nll: float | None = None

    def __init__(self, model, task, path, dtype: str = "float32", signals_only: bool = False):
        """task: the task that built the model. path: its checkpoint. dtype: of the weights, one of DTYPES.

        signals_only: only `signal` runs the model. Then bfloat16 is on a CPU the type of the products, and weights and
        features are float32 (`precision.autocast`): there attention and normalisation are slower in bfloat16, and less
        exact.
        """
        self.path = str(path)
        self.source_dictionary = task.source_dictionary
        self.target_dictionary = task.target_dictionary
        self.languages = (task.cfg.source_lang, task.cfg.target_lang)
        self.task_options, self.layout = task.cfg, layout_of(task.cfg)
        self.language_tokens = added_tokens(task)
        self._dtype, self._device = DTYPES[dtype], torch.device("cpu")
        self._mixed = signals_only and dtype == "bfloat16"
        self.model = (model if self._mixed else model.to(self._dtype)).requires_grad_(False).eval()

    @property
    def members(self) -> list["FrozenModel"]:
        """This model, as the only member of a mixture."""
        return [self]

    @property
    def max_positions(self) -> tuple[int, int]:
        """Longest source and target, in tokens with EOS, that the model accepts."""
        return self.model.max_positions()

    def with_products(self, task, dtype: str) -> "FrozenModel":
        """The same network for signals on the CPU with products in `dtype`, float32 or bfloat16. task: as for this."""
        return self if dtype == "float32" else FrozenModel(self.model, task, self.path, dtype, signals_only=True)

    def in_float32(self) -> "FrozenModel":
        """The same network with products in float32, if its weights are float32."""
        same = copy.copy(self)
        same._dtype, same._mixed = torch.float32, False
        return same

    def check_dictionaries(self, source_dictionary, target_dictionary, names=("teacher", "student")) -> None:
        """Raises KDError when dictionaries differ in content from the dictionaries of this model.

        names: how the error message names the owner of the model's dictionaries and the owner of the given ones.
        """
        check_same_dictionary(self.source_dictionary, source_dictionary, "source", names)
        check_same_dictionary(self.target_dictionary, target_dictionary, "target", names)

    @torch.no_grad()
    def signal(self, sample, keep: torch.Tensor, temperature: float = 1.0) -> DenseSignal:
        """Distributions over the next token at the N target positions where `keep` (B, T) is true.

        sample: a fairseq batch with "net_input". The signal computes the log-probabilities only when they are needed.
        Raises KDError when the model does not have positions for the longest sentence.
        """
        net_input = sample["net_input"]
        self._check_lengths(net_input)
        device = net_input["prev_output_tokens"].device
        narrow = self._mixed and device.type == "cpu"
        if device != self._device:
            self.model = self.model.to(device) if narrow else self.model.to(device, self._dtype)
            self._device = device
        projection = output_projection(self.model)
        # a training's mixed precision must not change this model
        with autocast(device.type, "bfloat16" if narrow else "none"), sdpa_kernel(ATTENTION):
            if projection is not None:
                features = self.model(**net_input, features_only=True)[0][keep]  # (N, d)
                kind = torch.bfloat16 if narrow else features.dtype
                return DenseSignal(features.to(kind), projection.detach().to(kind), temperature)
            net_output = self.model(**net_input)
            lprobs = self.model.get_normalized_probs(net_output, log_probs=True)  # (B, T, V)
            return DenseSignal(lprobs[keep].float(), None, temperature)

    def _check_lengths(self, net_input) -> None:
        limits = self.model.max_positions()
        lengths = (net_input["src_tokens"].size(1), net_input["prev_output_tokens"].size(1))
        for side, limit, length in zip(("source", "target"), limits, lengths, strict=True):
            if length > limit:
                raise KDError(
                    f"a {side} sentence has {length} tokens, but the model {self.path} has positions for {limit}: "
                    f"train with --max-{side}-positions {limit}"
                )


def load_frozen(
    path, *, data=None, languages=(None, None), dtype: str = "float32", trust: bool = False, signals_only: bool = False
) -> FrozenModel:
    """Read a checkpoint of fairseq-train and build its model with a separate task.

    data: folder with the model's dictionaries; None: the folder recorded in the checkpoint.
    languages: (source, target), for a checkpoint that records none because fairseq-train inferred them.
    dtype: "float32", "float16" or "bfloat16". trust: see `read_checkpoint`. signals_only: see `FrozenModel`.
    Raises KDError when the file or the dictionaries are missing or do not fit together.
    """
    state = read_checkpoint(path, trust=trust)
    configure_own_task(path, state, data, languages, language_tokens=True)
    model, task = build_model(path, state, trust)
    frozen = FrozenModel(model, task, path, dtype, signals_only)
    frozen.validation_nll = validation_nll(state)
    return frozen


def configure_own_task(
    path, state, data=None, languages=(None, None), data_option="--teacher-data", language_tokens: bool = False
) -> str:
    """Complete the task's configuration inside `state`, so that this process can set up the task.

    Returns the data-bin that the checkpoint records.
    state: the result of `read_checkpoint`, changed in place. data, languages: see `load_frozen`.
    data_option: the option that gives `data`, for error messages. language_tokens: see `check_configuration`.
    Raises KDError when the dictionaries are missing, and for a task or an architecture that is not supported.
    """
    from omegaconf import flag_override, open_dict

    cfg = state["cfg"]
    check_configuration(path, cfg, language_tokens)
    recorded = data_folder(cfg.task)
    if data is not None:
        check_one_folder(data, data_option)
    with open_dict(cfg), flag_override(cfg, "allow_objects", True):
        if multilingual_task(cfg.task) is not None:
            if data is None:
                warn_if_not_opened(path, cfg.task)
            cfg.task = own_options(path, cfg.task, recorded if data is None else data, languages)
        if data is not None:
            cfg.task.data = str(data)
        if "eval_bleu" in cfg.task:
            cfg.task.eval_bleu = False  # no sequence generator is needed, and its options may be unusable here
        for name in PRETRAINED:  # pre-trained embeddings, which the weights of the checkpoint replace
            if name in cfg.model:
                setattr(cfg.model, name, None)
        _fill_in_languages(path, cfg.task, languages)
    _check_dictionaries_exist(path, cfg.task, given=data is not None, option=data_option)
    return recorded


def data_folder(task_cfg) -> str:
    """The data-bin in a task's configuration; the first one if there are several."""
    return str(task_cfg.data).split(":")[0]


def build_model(path, state, trust: bool = False):
    """Build the model of a checkpoint with a separate task and load its weights; return (model, task).

    state: completed by `configure_own_task`. trust: let fairseq evaluate options that are not literals, and let the
    model be far larger than its weights.
    Raises KDError when dictionaries and weights do not fit together, and for a model that is not supported.
    """
    from fairseq import checkpoint_utils

    from fairseq_kd.inference.language_tokens import give_bart_its_options

    give_bart_its_options()
    budget = contextlib.nullcontext() if trust else Budget(state["model"])
    with _one_clear_error(path, state["cfg"]), torch.random.fork_rng(devices=[]), confined(trust), budget:
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    check_model(models[0], f"the model of {path}")
    task.cfg = task.cfg or task.args  # the older tasks of fairseq have no configuration
    return models[0], task


def _fill_in_languages(path, task_cfg, languages) -> None:
    """Set missing languages: fairseq-train records none when it inferred them from the names of the data files."""
    if task_cfg.source_lang and task_cfg.target_lang:
        return
    folder = Path(data_folder(task_cfg))
    pairs = language_pairs(folder) if folder.is_dir() else []
    task_cfg.source_lang, task_cfg.target_lang = pairs[0] if len(pairs) == 1 else languages
    if not all((task_cfg.source_lang, task_cfg.target_lang)):
        raise KDError(
            f"{path} does not record its languages, and the file names in {folder} do not show a single language pair; "
            "give its data-bin"
        )


def _check_dictionaries_exist(path, task_cfg, given: bool, option: str) -> None:
    folder = data_folder(task_cfg)
    for lang in (getattr(task_cfg, "source_lang", None), getattr(task_cfg, "target_lang", None)):
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
    except Exception as error:  # with the options or dictionaries of another model, any error is possible
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        architecture = getattr(cfg.model, "arch", None) or getattr(cfg.model, "_name", "unknown")
        raise KDError(
            f"the model of {path} (architecture {architecture}) cannot be built: {reason}. Either these are not the "
            "dictionaries of its training, or its architecture comes from another folder of code (--user-dir)"
        ) from error
