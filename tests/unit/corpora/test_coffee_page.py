"""The manifest that docs/coffee.md makes of published labels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from distillery.corpora.manifest import read_manifest
from distillery.params.prepare import PrepareParams

ROOT = Path(__file__).parents[3]


def test_the_page_makes_a_manifest_of_the_labels(
    tmp_path: Path, write_recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "data/raw/coffee"
    for name in ("one", "two"):
        write_recording(corpus / f"data/speech/clean/{name}.wav", 0.5)
    slots = {"size": "large", "milkAmount": " soy milk"}
    labels = {
        "one.wav": {"intent": "orderDrink", "slots": slots},
        "two.wav": {"intent": "orderDrink", "slots": {"coffeeDrink": "latte"}},
    }
    (corpus / "data/label").mkdir(parents=True)
    (corpus / "data/label/label.json").write_text(json.dumps(labels))
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/coffee.md").read_text(), re.M | re.S
    )
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    ready = yaml.safe_load((ROOT / "examples/coffee.yaml").read_text())["prepare"]
    params = PrepareParams.model_validate(ready)
    found = list(read_manifest(params, tmp_path / params.source))
    assert [item.source_path for item in found] == [
        "data/speech/clean/one.wav",
        "data/speech/clean/two.wav",
    ]
    assert [item.text for item in found] == [None, None]
    assert [tuple(part.strip() for part in item.expected) for item in found] == [
        ("large", "soy milk"),
        ("latte",),
    ]
