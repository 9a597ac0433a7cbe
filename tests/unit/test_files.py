import hashlib
from pathlib import Path

import pytest

from distillery.files import digest_of_file


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 4097], ids=len)
def test_the_digest_of_a_file_is_the_sha256_of_its_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert digest_of_file(path) == hashlib.sha256(content).hexdigest()
