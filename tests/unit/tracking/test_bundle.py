from pathlib import Path

import pytest

from distillery.errors import ModelError
from distillery.tracking.bundle import check_bundle, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, str]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "tokens.txt").write_text("a\n")
    target = tmp_path / "bundle"
    return target, write_bundle(model, target)


def test_a_bundle_passes_its_own_check(bundle: tuple[Path, str]) -> None:
    folder, digest = bundle
    check_bundle(folder)
    check_bundle(folder, digest)


def test_one_flipped_bit_is_found(bundle: tuple[Path, str]) -> None:
    folder, _ = bundle
    (folder / "tokens.txt").write_text("c\n")
    with pytest.raises(ModelError, match=r"tokens\.txt: SHA-256 .* expected .* is damaged"):
        check_bundle(folder)


def test_a_missing_and_an_added_file_are_found(bundle: tuple[Path, str]) -> None:
    folder, _ = bundle
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json: SHA-256 \(no file\), expected"):
        check_bundle(folder)
    (folder / "config.json").write_text("{}")
    (folder / "extra").write_text("")
    with pytest.raises(ModelError, match=r"extra: SHA-256 .*, expected \(no file\)"):
        check_bundle(folder)


def test_a_list_that_was_rewritten_does_not_fit_the_registry(bundle: tuple[Path, str]) -> None:
    folder, _ = bundle
    with pytest.raises(ModelError, match="the registry says 000000000000…"):
        check_bundle(folder, "0" * 64)


def test_a_folder_without_digests_is_no_published_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"sha256\.json: missing or unreadable"):
        check_bundle(tmp_path)
