"""The evaluation from Python: the commands `evaluate` and `compare`, and a calibration, with plain arguments."""

from collections.abc import Sequence

from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.writing import ensure_writable_file
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.public import errors_name_arguments
from fairseq_kd.evaluation.backend import BackendOptions
from fairseq_kd.evaluation.calibration import BINS, calibration, observe
from fairseq_kd.evaluation.compare import CompareOptions, compare
from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.evaluation.measures import Measures, TeacherOptions
from fairseq_kd.evaluation.robustness import NoiseLevels
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.evaluation.translate import translate
from fairseq_kd.inference.device import choose_device
from fairseq_kd.inference.loading import load_pair
from fairseq_kd.inference.opening import check_positions, gold_batches


@errors_name_arguments(resamples="confidence-n", bins="calibration")
def evaluate_checkpoint(
    data_bin,
    checkpoint,
    *,
    subset: str = "test",
    out=None,
    resamples: int = 0,
    bins: int = 0,
    latency: int = 0,
    teacher=None,
    teacher_data=None,
    noise_levels: Sequence[float] = (),
    reference=None,
    post_process: str | None = None,
    tokenize: str | None = None,
    beam: int = 5,
    lenpen: float = 1.0,
    max_len_a: float = 0.0,
    max_len_b: int = 200,
    max_tokens: int = 12000,
    fp16: bool = False,
    cpu: bool = False,
    backend: str = "fairseq",
    workers: int | None = None,
    trust_checkpoint=None,
) -> dict:
    """Translate a subset and score it; return the result of `evaluation.evaluate`, which also holds the translations.

    out: a file for the result, which `compare_results` reads. resamples: of the bootstrap intervals. bins: of the
    calibration. latency: sentences that are timed. teacher: measure the agreement with it; teacher_data: folder of its
    dictionaries, if it was moved. noise_levels: percentages of the source words that get noise. reference,
    post_process: for a data-bin of fairseq-preprocess. trust_checkpoint: `checkpoint` again, if it may hold code. beam
    to cpu: see `TranslateOptions`. backend, workers: see `BackendOptions`. A measure that is 0, None or empty is not
    made.
    Raises KDError for input that cannot be used, before anything is translated.
    """
    options = TranslateOptions(beam, lenpen, max_len_a, max_len_b, max_tokens, fp16, cpu)
    noise = NoiseLevels(tuple(noise_levels)) if noise_levels else None
    measures = Measures(resamples, bins, latency, _teacher(teacher, teacher_data), noise)
    how = {"reference": reference, "post_process": post_process, "tokenize": tokenize, "measures": measures}
    how["backend"] = BackendOptions(backend, workers)
    trust = _trusts(checkpoint, trust_checkpoint)
    if out is not None:
        ensure_writable_file(out)
    result = evaluate(data_bin, checkpoint, subset, options, trust=trust, **how)
    if out is not None:
        write_record(out, result)
    return result


@errors_name_arguments()
def translate_lines(
    lines: Sequence[str],
    model,
    data=None,
    *,
    long_lines: str = "error",
    subword_model=None,
    in_form: bool = False,
    beam: int = 5,
    lenpen: float = 1.0,
    max_len_a: float = 0.0,
    max_len_b: int = 200,
    max_tokens: int = 12000,
    fp16: bool = False,
    cpu: bool = False,
    trust_checkpoint=None,
) -> list[str]:
    """Translate lines of plain text; return one line of plain text per line, in order, as `fairseq-kd translate` does.

    model: a checkpoint of fairseq-train with `data`, the data-bin of its training, or a folder of `fairseq-kd export`
    without it. long_lines: "error" or "split", for lines that are longer than the model's positions. subword_model: a
    file or "none", for data without a subword model. in_form: the lines have the form of the data already.
    trust_checkpoint: `model` again, if it may hold code. beam to cpu: see `TranslateOptions`.
    Raises KDError for a model, data or lines that cannot be used.
    """
    options = TranslateOptions(beam, lenpen, max_len_a, max_len_b, max_tokens, fp16, cpu)
    how = {"subword_model": subword_model, "in_form": in_form, "trust": _trusts(model, trust_checkpoint)}
    return translate(lines, model, data, options=options, long_lines=long_lines, **how)


def _teacher(paths, data) -> TeacherOptions | None:
    if data is not None and paths is None:
        raise KDError("--teacher-data has no effect without --teacher")
    return None if paths is None else TeacherOptions(str(paths), data)


@errors_name_arguments(data="teacher-data")
def calibrate(
    data_bin,
    checkpoint,
    *,
    subset: str = "valid",
    bins: int = BINS,
    data=None,
    trust_checkpoint=None,
    cpu: bool = False,
) -> dict:
    """Compare the probabilities of a checkpoint under gold prefixes with the gold tokens; see `calibration`.

    bins: of equal mass. data: folder of the checkpoint's dictionaries; None: the folder that it records.
    trust_checkpoint: `checkpoint` again, if it may hold code.
    Raises KDError when checkpoint and data-bin do not fit together.
    """
    if bins < 1:
        raise KDError(f"--bins {bins}: must be at least 1")
    trust = _trusts(checkpoint, trust_checkpoint)
    model, task = load_pair(data_bin, checkpoint, subset, data=data, trust=trust)
    dataset = task.dataset(subset)
    check_positions(dataset.src_sizes, dataset.tgt_sizes, model.model.max_positions())
    batches = gold_batches(dataset, task.target_dictionary.pad(), choose_device(cpu), "calibration")
    return calibration(observe(model, batches), bins)


def _trusts(checkpoint, trusted) -> bool:
    if trusted is not None and str(trusted) != str(checkpoint):
        raise KDError(f"--trust-checkpoint {trusted} is not the --checkpoint {checkpoint}")
    return trusted is not None


@errors_name_arguments(resamples="paired-bs-n", trials="paired-ar-n", tokenize="tokenize")
def compare_results(
    systems: dict, *, metric: str = "bleu", resamples: int = 1000, trials: int = 10000, alpha: float = 0.05
) -> dict:
    """Compare systems with the first one; `evaluation.compare` lists the keys of the comparison.

    systems: name -> result file, or one file per run. metric: "bleu", "chrf" or "ter". resamples: of the paired
    bootstrap. trials: of approximate randomisation. alpha: level of significance, after Holm's correction.
    Raises KDError for files that cannot be compared.
    """
    files = {name: list(found) if isinstance(found, list | tuple) else [found] for name, found in systems.items()}
    return compare(files, CompareOptions(metric, resamples, trials, alpha))
