"""The template of the deployment on AWS."""

from __future__ import annotations

from typing import Any

from samtranslator.yaml_helper import yaml_parse

from functions._local.schema import ROOT


def sam_template() -> dict[str, Any]:
    template: dict[str, Any] = yaml_parse((ROOT / "functions" / "template.yaml").read_text())
    return template
