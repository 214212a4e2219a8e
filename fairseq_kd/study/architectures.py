"""Architectures as values of a factor: which options of a spec belong to the model, and which of them a model has.

A recipe gives the options of one model, such as `share-all-embeddings` of a transformer. Where a factor chooses another
architecture, the options of the sections that this architecture lacks are left out. An option that the first
architecture lacks too is a misspelt one, which the parser of fairseq-train refuses, and so is an option that a factor
assigns: then somebody expects an effect.
"""

import argparse
import functools

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.spec import Spec
from fairseq_kd.training.arguments import option_names


@functools.cache
def model_options(arch: str) -> frozenset[str]:
    """The options of a registered architecture; empty for another name, which the parser refuses later."""
    from fairseq.models import ARCH_MODEL_REGISTRY

    if arch not in ARCH_MODEL_REGISTRY:
        return frozenset()
    parser = argparse.ArgumentParser(add_help=False)
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    return frozenset(option_names(parser))


def left_out(options: dict, who: str, spec: Spec, settings: dict) -> dict:
    """The options of a training without those of another architecture, see the module.

    who: "teacher" or "student". settings: of the cell, whose factors have assigned settings["assigned"].
    """
    written = spec.sections[who].get("arch", spec.sections["common"].get("arch"))
    chosen = options.get("arch")
    if written == chosen or written is None or not model_options(str(chosen)):
        return options
    foreign = model_options(str(written)) - model_options(str(chosen))
    kept = {setting.partition(".")[2] for setting in settings["assigned"] if setting.startswith((f"{who}.", "common."))}
    return {name: value for name, value in options.items() if name not in foreign or name in kept}


def of_the_model(spec: Spec, options: dict) -> dict:
    """The architecture and its options, out of the options of a training. Raises KDError without an architecture."""
    if "arch" not in options:
        raise KDError(f"{spec.path}: init needs the architecture of the student: give arch in student or common")
    names = {"arch"} | model_options(str(options["arch"]))
    return {name: value for name, value in options.items() if name in names}
