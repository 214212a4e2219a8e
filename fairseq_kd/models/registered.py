"""The options of a registered model."""

import argparse


def family(model) -> str:
    """The name of the class of a model. model: its options, as fairseq-train parses them or a checkpoint has them."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY

    arch = str(getattr(model, "arch", None) or getattr(model, "_name", None))
    return ARCH_MODEL_NAME_REGISTRY.get(arch, arch)


def actions_of(model) -> dict[str, argparse.Action]:
    """The options of a model's class: name -> action of the parser. Empty for a class that is not registered."""
    from fairseq.models import MODEL_REGISTRY

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    if (found := MODEL_REGISTRY.get(family(model))) is not None:
        found.add_args(parser)
    return {action.dest: action for action in parser._actions}
