"""The folder that `flwr run` takes: a pyproject.toml that names `server_app` and `client_app` of this package."""

import json
from pathlib import Path

PROJECT = """\
[project]
name = "fairseq-kd-federated"
version = "1.0.0"
description = "fairseq-kd federated"
dependencies = []

[tool.flwr.app]
publisher = "fairseq-kd"

[tool.flwr.app.components]
serverapp = "fairseq_kd.federated.app:server_app"
clientapp = "fairseq_kd.federated.app:client_app"

[tool.flwr.app.config]
plan = {plan}
"""
CONNECTION = """\
[superlink]
default = "here"

[superlink.here]
address = {address}
insecure = true
"""


def write_project(folder: Path, plan_file: Path) -> Path:
    """Write the folder of the app; return it. plan_file: the absolute path of plan.json on the server."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(plan=json.dumps(str(plan_file))), encoding="utf-8")
    return folder


def write_app(folder: Path, plan_file: Path, address: str) -> Path:
    """Write the folder of the app, and the address of the SuperLink for `flwr run`. Returns the former."""
    (folder / "home").mkdir(parents=True, exist_ok=True)
    (folder / "home" / "config.toml").write_text(CONNECTION.format(address=json.dumps(address)), encoding="utf-8")
    return write_project(folder / "app", plan_file)
