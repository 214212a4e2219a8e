"""fairseq's conversion of options without the work that Hydra repeats for each command line (0.5 s of processor time).

Hydra parses each `name=value` with an interpreted grammar, and composes the same default values for each command line.
Here the parsed texts are kept, and the default values for each choice of dataclasses. Hydra applies the values of the
command line to a copy of these default values, as it does without this module.
"""

import copy
import functools

from fairseq import options
from fairseq.dataclass import utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

hydra_compose, _parse, _store = utils.compose, OverridesParser.parse_rule, ConfigStore.store


@functools.cache
def _parsed(text: str, rule: str):
    return _parse(OverridesParser.create(), text, rule)


@functools.cache
def _defaults(choices: tuple[str, ...]):
    return hydra_compose("config", overrides=list(choices), strict=False)


def compose(config_name: str, overrides: list[str], strict: bool):
    """hydra.compose for fairseq, which chooses dataclasses by `group=name` and gives values by `group.field=value`."""
    assert (config_name, strict) == ("config", False)
    choices = tuple(text for text in overrides if "." not in text.partition("=")[0])
    values = [text for text in overrides if "." in text.partition("=")[0]]
    config = copy.deepcopy(_defaults(choices))
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), config)
    OmegaConf.set_struct(config, False)
    return config


def keep() -> None:
    """Let Hydra parse each text once per process and fairseq compose by `compose`; forks inherit what is kept.

    The texts of a training are parsed at once. The default values are dropped when a dataclass is registered.
    """

    def store(self, *arguments, **named):
        _defaults.cache_clear()
        return _store(self, *arguments, **named)

    OverridesParser.parse_rule = lambda self, text, rule: copy.copy(_parsed(text, rule))
    ConfigStore.store, utils.compose = store, compose
    words = ["data", "--arch", "transformer", "--optimizer", "adam", "--criterion", "label_smoothed_cross_entropy"]
    utils.convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
