"""A model that cannot be imported."""

score = undefined  # type: ignore[name-defined]  # noqa: F821
