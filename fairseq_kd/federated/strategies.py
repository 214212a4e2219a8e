"""The aggregation strategies of Flower that a spec can name, their options, and the state that they keep on the server.

The classes are those of `flwr.serverapp.strategy`. A round needs all clients that were drawn, so the strategy draws
nothing: it gets a grid that has only these clients.
"""

from dataclasses import dataclass, field

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import check_keys, is_number, nearest
from fairseq_kd.federated.arrays import Arrays

WEIGHT = "num-examples"  # the key of a client's weight in the mean


@dataclass(frozen=True)
class Known:
    """One strategy. options: name in a spec -> (lowest, highest value). state: attributes that a round hands on.

    counts: options whose values are whole numbers of clients.
    """

    options: dict = field(default_factory=dict)
    state: tuple[str, ...] = ()
    weighted: bool = True
    counts: tuple[str, ...] = ()


_ABOVE_0, _ANY, _SHARE = (1e-12, np.inf), (0, np.inf), (0, 1 - 1e-9)
_ADAPTIVE = {"eta": _ABOVE_0, "tau": _ABOVE_0}
_MOMENTS = _ADAPTIVE | {"beta-1": _SHARE, "beta-2": _SHARE}
STRATEGIES = {
    "FedAvg": Known(),
    "FedProx": Known({"proximal-mu": _ANY}),
    "FedAvgM": Known({"server-learning-rate": _ABOVE_0, "server-momentum": _SHARE}, ("momentum_vector",)),
    "FedAdagrad": Known(_ADAPTIVE, ("m_t", "v_t")),
    "FedAdam": Known(_MOMENTS, ("m_t", "v_t")),
    "FedYogi": Known(_MOMENTS, ("m_t", "v_t")),
    "FedMedian": Known(weighted=False),
    "FedTrimmedAvg": Known({"beta": (0, 0.5 - 1e-9)}, weighted=False),
    "Krum": Known({"num-malicious-nodes": (0, np.inf)}, weighted=False, counts=("num-malicious-nodes",)),
}


def check_strategy(path, given: dict) -> None:
    """Check the section `strategy` of a spec: {name, options}. Raises KDError that names the key at fault."""
    name = given.get("name") if isinstance(given, dict) else given
    if name not in STRATEGIES:
        raise KDError(f"{path}: strategy has the name {name!r}; the nearest valid one is {nearest(name, STRATEGIES)!r}")
    check_keys(path, f"strategy {name}", given, ("name", *STRATEGIES[name].options))
    for key, (lowest, highest) in STRATEGIES[name].options.items():
        if key in given and not (is_number(given[key]) and lowest <= given[key] <= highest):
            raise KDError(f"{path}: {key} of strategy {name} must be a number from {lowest:g} to {highest:g}, found "
                          f"{given[key]!r}")  # fmt: skip
        if key in given and key in STRATEGIES[name].counts and type(given[key]) is not int:
            raise KDError(f"{path}: {key} of strategy {name} must be a whole number of clients, found {given[key]!r}")


def build(given: dict, clients: int):
    """The strategy of Flower for a round with this number of clients. given: a checked section of a spec."""
    import flwr.serverapp.strategy as of_flower

    options = {key.replace("-", "_"): value for key, value in given.items() if key != "name"}
    counts = dict.fromkeys(("min_train_nodes", "min_available_nodes"), clients)
    return getattr(of_flower, given["name"])(fraction_evaluate=0.0, weighted_by_key=WEIGHT, **counts, **options)


def state_of(strategy, name: str) -> Arrays:
    """What the strategy hands on to the next round, as arrays by attribute and place."""
    found = {}
    for attribute in STRATEGIES[name].state:
        values = getattr(strategy, attribute) or {}
        items = values.items() if isinstance(values, dict) else enumerate(values)
        found |= {f"{attribute}/{key}": np.asarray(value) for key, value in items}
    return found


def restore(strategy, name: str, arrays: Arrays) -> None:
    """Give the strategy what `state_of` of the last round has returned."""
    for attribute in STRATEGIES[name].state:
        values = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{attribute}/")}
        if values:
            setattr(strategy, attribute, [*values.values()] if attribute == "momentum_vector" else values)
