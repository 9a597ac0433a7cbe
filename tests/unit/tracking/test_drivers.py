"""What a missing driver or a store's own error comes to."""

from __future__ import annotations

import pytest

from distillery.tracking.drivers import how_to_install, in_a_line, is_of_a_store, missing_driver


@pytest.mark.parametrize(
    ("module", "extra"),
    [("psycopg2", "postgres"), ("boto3", "s3"), ("dvc_s3", "s3")],
)
def test_a_driver_of_an_extra_is_named_with_it(module: str, extra: str) -> None:
    error = ModuleNotFoundError(f"No module named '{module}.x'", name=f"{module}.x")
    assert missing_driver(error) == (
        f"the Python module {module} is not installed; make install brings it, elsewhere pip "
        f"install 'distillery[{extra}]'"
    )


def test_a_driver_that_another_error_hides_is_found_and_one_that_was_only_tried_is_not() -> None:
    with pytest.raises(ValueError) as hidden:
        try:
            import no_such_driver  # type: ignore[import-not-found]
        except ImportError as error:
            raise ValueError("cannot make a client") from error
    said = missing_driver(hidden.value)
    assert said is not None
    assert "install the package that brings no_such_driver, which is no extra of ours" in said
    with pytest.raises(ValueError) as tried:
        try:
            import no_such_driver  # noqa: F401
        except ImportError:
            raise ValueError("something else")  # noqa: B904
    assert missing_driver(tried.value) is None


def test_a_module_of_ours_that_is_missing_is_a_mistake_and_no_driver() -> None:
    assert missing_driver(ModuleNotFoundError("No module", name="distillery.nothing")) is None
    assert missing_driver(ImportError("cannot import name 'x'")) is None


def test_errors_of_amazons_libraries_are_known_without_them() -> None:
    kind = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})
    assert is_of_a_store(kind())
    assert is_of_a_store(type("Derived", (kind,), {})())
    assert not is_of_a_store(ValueError())


def test_an_error_becomes_its_first_line() -> None:
    assert in_a_line(ValueError("\n  no\nmore")) == "no"
    assert in_a_line(ValueError()) == "ValueError()"
    assert how_to_install("s3fs").endswith("'distillery[s3]'")
