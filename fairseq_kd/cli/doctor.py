"""`fairseq-kd doctor`: what is installed, on which devices, and how to install what is missing."""

import importlib.util
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from fairseq_kd.core.cores import advice_on_threads, busy_cores, usable_cores
from fairseq_kd.core.paths import PACKAGE
from fairseq_kd.version import __version__

REQUIRED = {
    "numpy": "numpy",
    "scipy": "scipy",
    "omegaconf": "omegaconf",
    "yaml": "PyYAML",
    "sacrebleu": "sacrebleu",
    "sentencepiece": "sentencepiece",
    "subword_nmt": "subword-nmt",
    "pyarrow": "pyarrow",
    "regex": "regex",
    "filelock": "filelock",
    "tqdm": "tqdm",
}
# module -> (distribution, extra of setup.py that brings it, what needs it)
OPTIONAL = {
    "tensorboardX": ("tensorboardX", "report", "--tensorboard-logdir of fairseq-train"),
    "sacremoses": ("sacremoses", "moses", "prepare --form tokenised, --eval-bleu-detok moses of fairseq-train"),
    "matplotlib": ("matplotlib", "report", "fairseq-kd study report and partition, --diagram of fairseq-kd evaluate"),
    "jinja2": ("jinja2", "report", "fairseq-kd study report"),
    "sklearn": ("scikit-learn", "collaboration", "fairseq-kd partition --by topic"),
    "ctranslate2": ("ctranslate2", "fast", "fairseq-kd export and the fast backend of decode"),
    "snakemake": ("snakemake", "study", "fairseq-kd study and search"),
    "MeCab": ("mecab-python3", "ja", "BLEU of Japanese, --tokenize ja-mecab of fairseq-kd evaluate"),
    "mecab_ko": ("mecab-ko", "ko", "BLEU of Korean, --tokenize ko-mecab of fairseq-kd evaluate"),
    "optuna": ("optuna", "search", "fairseq-kd search by Optuna"),
    "flwr": ("flwr", "federated", "fairseq-kd federated"),
    "tokenizers": ("tokenizers", "pretrained", "fairseq-kd decode --teacher-tokeniser hf:FILE"),
    "opusfilter": ("opusfilter", "opusfilter", "fairseq-kd decode --opusfilter"),
}
FASTER = 1.2  # a product that gains less does not pay for the conversion of its operands
SUPPORTED_PYTHON = ((3, 11), (3, 12))


def add_arguments(parser) -> None:
    """No options."""


def run(args) -> int:
    """Print the report; status 1 when something that is needed is missing."""
    problems = []
    print(f"fairseq_kd    {__version__}    --user-dir {PACKAGE}")
    print(f"Python        {platform.python_version()}    {sys.executable}")
    if sys.version_info[:2] not in SUPPORTED_PYTHON:
        problems.append("Python 3.11 and 3.12 are supported: make the virtual environment with one of them")
    problems += _report_torch()
    problems += _report_fairseq()
    for module, name in REQUIRED.items():
        if importlib.util.find_spec(module) is None:
            problems.append(f"{name} is missing: pip install -c constraints.txt {name}")
        else:
            print(f"{name:<14}{_version(name)}")
    print("\noptional")
    for module, (name, extra, purpose) in OPTIONAL.items():
        present = importlib.util.find_spec(module) is not None
        state = _version(name) if present else f"not installed; needed for {purpose}: pip install '.[{extra}]'"
        print(f"{name:<14}{state}")
    print()
    for problem in problems:
        print(f"problem: {problem}")
    print("nothing that is needed is missing" if not problems else f"{len(problems)} to fix")
    return 1 if problems else 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "version not known"


def _report_torch() -> list[str]:
    if importlib.util.find_spec("torch") is None:
        return ["torch is missing: pip install -c constraints.txt torch"]
    import torch

    print(f"torch         {torch.__version__}    {torch.get_num_threads()} threads")
    cores, busy = usable_cores(), busy_cores()
    occupied = "" if busy is None else f", {busy:.1f} of them busy now"
    print(f"cores         {cores} usable{occupied}")
    if not torch.cuda.is_available() and (advice := advice_on_threads(torch.get_num_threads(), cores, busy)):
        print(f"note          {advice}")
    for index in range(torch.cuda.device_count()):
        print(f"device        cuda:{index} {torch.cuda.get_device_name(index)}")
    if not torch.cuda.is_available():
        print("device        cpu (no CUDA device is seen)")
    print(f"bfloat16      {_bfloat16_on_cpu()}")
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 6):
        return [f"torch {torch.__version__} is too old: safe loading needs 2.6; pip install -c constraints.txt torch"]
    return []


def _bfloat16_on_cpu() -> str:
    """Whether the CPU has instructions for bfloat16, how much faster its products are, and what to do with it."""
    from fairseq_kd.inference.precision import gain_of_products, instructions_of_cpu

    if not (names := instructions_of_cpu()):
        return "this CPU has no instructions for it, as far as the system says: leave trainings and teachers in float32"
    gain = gain_of_products()
    measured = f"this CPU has {', '.join(names)}; a product takes {1 / gain:.2f} of its time in float32"
    if gain < FASTER:
        return f"{measured}, so bfloat16 is not faster here: leave trainings and teachers in float32"
    return f"{measured}: train with --autocast bfloat16, make caches with --teacher-dtype bfloat16"


def _report_fairseq() -> list[str]:
    if importlib.util.find_spec("fairseq") is None:
        return ["fairseq is missing: pip install -c constraints.txt 've-fairseq==0.12.3'"]
    import fairseq

    distribution = next((n for n in ("ve-fairseq", "fairseq") if _version(n) != "version not known"), "a checkout")
    print(f"fairseq       {fairseq.__version__}    from {distribution} ({_version(distribution)})")
    try:
        from fairseq.data import data_utils_fast  # noqa: F401
    except ImportError as error:
        return [f"fairseq's compiled parts cannot be loaded ({error}): install ve-fairseq, or build your checkout"]
    return []
