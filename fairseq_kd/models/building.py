"""Build the model of a fairseq-train command line without a training."""

import contextlib
import io
import warnings

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.supported import check_model


def build(arch: str, data: str, options: list[str], device: str = "meta", task=None):
    """(model, its options) of a fairseq-train command line. torch's meta device gives shapes without memory.

    task: a task that was set up, None: the task of the command line. Its dictionaries decide how many tokens the model
    has. Raises KDError when fairseq cannot build the model.
    """
    import torch
    from fairseq import tasks
    from fairseq.models import ARCH_MODEL_REGISTRY

    if arch not in ARCH_MODEL_REGISTRY:
        raise KDError(
            f"neither fairseq nor fairseq_kd has --arch {arch}; students are kd_student_3m, kd_student_5m and so on"
        )
    words = [data, "--arch", arch, "--task", "translation", *options]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), torch.device(device):
            cfg = parse(words)
            model = (task or tasks.setup_task(cfg.task)).build_model(cfg.model)
    except SystemExit as error:
        if isinstance(error.__cause__, KDError):
            raise error.__cause__ from error
        reason = said.getvalue().strip().splitlines()[-1:] or ["it gave no reason"]
        raise KDError(f"fairseq does not understand {' '.join(options)}: {reason[0]}") from error
    except KDError:
        raise
    except Exception as error:  # fairseq checks few options: a wrong one can raise any error
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise KDError(f"fairseq cannot build --arch {arch} with {' '.join(words)}: {reason}") from error
    check_model(model, f"--arch {arch}")
    return model, cfg.model


def parse(words: list[str]):
    """The configuration of a fairseq-train command line."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra's deprecation warnings about fairseq's calls
        return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
