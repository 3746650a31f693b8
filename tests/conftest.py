"""Three tiers of tests, a folder each, and a marker of the same name on every test in it."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIERS = ("fast", "kafka", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests with the name of their tier."""
    for item in items:
        folder = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        if folder in TIERS:
            item.add_marker(folder)
