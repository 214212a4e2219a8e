"""Package metadata of fairseq_kd. Build system, ruff and pytest are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (ROOT / "fairseq_kd" / "version.py").read_text(), re.M).group(1)

MOSES = ["sacremoses>=0.1"]
TEST = [*MOSES, "pytest>=8", "pytest-xdist>=3.6", "ruff>=0.6", "tensorboardX>=2.6", "setuptools>=69"]
TEST += ["pytest-randomly>=3.16", "hypothesis>=6.100"]
TEST += [
    "matplotlib>=3.8",
    "jinja2>=3.1",
    "scikit-learn>=1.5",
    "uncertainty-calibration>=0.1.4",
    "transformers>=5",
    "snakemake-executor-plugin-cluster-generic>=1.0.9",
]

setup(
    name="fairseq_kd",
    version=VERSION,
    description="Knowledge distillation for neural machine translation, as a plugin for stock fairseq",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    # configs/ stands at the top level of the repository and is installed as fairseq_kd/configs
    packages=[*find_packages(include=["fairseq_kd", "fairseq_kd.*"]), "fairseq_kd.configs"],
    package_dir={"fairseq_kd.configs": "configs"},
    package_data={
        "fairseq_kd.configs": ["**/*.yaml"],
        "fairseq_kd.study": ["Snakefile"],
        "fairseq_kd.study.report": ["*.j2", "*.css"],
    },
    install_requires=[
        "torch>=2.6",
        "numpy",
        "scipy>=1.11",
        "PyYAML>=6",
        "sacrebleu>=2.4",
        "sentencepiece>=0.2",
        "subword-nmt>=0.3.8",
        "pyarrow>=15",
        "regex",
        "filelock>=4",
        "tqdm>=4.62",
    ],
    extras_require={
        # the distribution of fairseq that installs on Python 3.11 and 3.12; leave it out to keep your own
        "fairseq": ["ve-fairseq==0.12.3"],
        "test": TEST,
        # fairseq-kd export, and fairseq-kd decode --backend ctranslate2
        "fast": ["ctranslate2>=4.5"],
        # fairseq-kd federated
        "federated": ["flwr>=1.42"],
        # fairseq-kd search with the algorithm optuna
        "search": ["optuna>=4"],
        # fairseq-kd decode --teacher-folder, with a tokenizer.json
        "pretrained": ["ctranslate2>=4.5", "tokenizers>=0.20"],
        # fairseq-kd decode --opusfilter
        "opusfilter": ["opusfilter>=3.3"],
        # fairseq-kd prepare --form tokenised, lower-cased
        "moses": MOSES,
        # fairseq-kd study
        "study": ["snakemake>=9"],
        # fairseq-kd partition: topics, plot of the differences
        "collaboration": ["scikit-learn>=1.5", "matplotlib>=3.8"],
        # BLEU of Japanese and Korean
        "ja": ["sacrebleu[ja]>=2.4"],
        "ko": ["sacrebleu[ko]>=2.4"],
        # tables, plots and reports
        "report": ["matplotlib>=3.8", "jinja2>=3.1", "tensorboardX>=2.6"],
        # make docs
        "docs": ["sphinx>=9", "myst-parser>=5", "furo>=2025.12.19", "sphinx-copybutton>=0.5.2"],
    },
    entry_points={"console_scripts": ["fairseq-kd = fairseq_kd.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
