"""Memory that nobody uses any more goes back to the system."""

import sys

import psutil
import pytest

import helpers


@pytest.mark.skipif(sys.platform != "linux", reason="other systems decide themselves")
def test_freed_memory_goes_back():
    """Also what lies below a block that is still in use: 300 MB in blocks too small to have a mapping of their own."""
    blocks = [b"x" * 50_000 for _ in range(6_000)]
    before = psutil.Process().memory_info().rss
    blocks = blocks[-1:]
    helpers.free_memory()
    assert before - psutil.Process().memory_info().rss > 200e6 and len(blocks) == 1
