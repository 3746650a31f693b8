"""What people say on the control topic counts only where it is signed as the pipeline wants it."""

from __future__ import annotations

import base64
import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from streamproc.cli.control import signed
from streamproc.core.control import NewMode, dumps
from streamproc.core.decide.frame import MODE
from streamproc.core.plan import Mode
from streamproc.pipeline import open_pipeline
from streamproc.sample import example
from streamproc.seeing import Seeing
from tests.kafka.car_loan import bare


def said(mode: Mode, by: str = "ada", day: int = 1, pipeline: str = "car-loan") -> NewMode:
    return NewMode(pipeline=pipeline, time=datetime(2026, 1, day, tzinfo=UTC), by=by, why="a test", mode=mode)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    private = Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8
    (tmp_path / "ada.pem").write_bytes(
        private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    )
    (tmp_path / "ada.pub").write_bytes(private.public_key().public_bytes_raw())
    return tmp_path / "ada.pem"


def seeing(tmp_path: Path, key: Path, *, required: bool) -> Seeing:
    """What a worker sees of a pipeline that knows ada's key."""
    folder = tmp_path / "loans"
    shutil.copytree(example("car_loan"), folder, dirs_exist_ok=True)
    file, public = folder / "pipeline.yaml", base64.b64encode(key.with_suffix(".pub").read_bytes()).decode()
    wanted = f"keys: {{ada: {public}}}, require_signature: {str(required).lower()}"
    part = f"\nreview: {{ttl: 1h, on_expiry: decline, {wanted}}}\n\nactions:\n"
    file.write_text(bare(file.read_text()).replace("\nactions:\n", part))
    return Seeing(open_pipeline(file))


def mode(sight: Seeing, *records: NewMode) -> Mode:
    """The mode after each of the records was the newest; the last one."""
    found: Mode = "automatic"
    for record in records:
        views = sight.views({"car-loan.control": {b"mode": dumps(record)}})
        found = views[MODE]
    return found


def test_what_is_signed_counts(tmp_path: Path, key: Path) -> None:
    for required in (True, False):
        assert mode(seeing(tmp_path, key, required=required), signed(said("fallback"), key)) == "fallback"


def test_what_is_not_signed_counts_only_where_that_is_not_wanted(tmp_path: Path, key: Path) -> None:
    assert mode(seeing(tmp_path, key, required=False), said("fallback")) == "fallback"
    sight = seeing(tmp_path, key, required=True)
    assert mode(sight, signed(said("fallback"), key), said("automatic")) == "fallback", "what counted still does"


def test_what_was_deleted_or_is_said_again_later_changes_nothing_where_signatures_are_wanted(
    tmp_path: Path, key: Path
) -> None:
    sight = seeing(tmp_path, key, required=True)
    old, new = signed(said("automatic"), key), signed(said("review-all", day=2), key)
    assert mode(sight, old, new) == "review-all"
    assert mode(sight, old) == "review-all", "an old record, sent again"
    assert sight.views({"car-loan.control": {}})[MODE] == "review-all", "a tombstone"
    assert mode(sight, signed(said("automatic", day=3), key)) == "automatic"


def test_a_record_under_another_key_or_of_another_pipeline_does_not_count(tmp_path: Path, key: Path) -> None:
    sight = seeing(tmp_path, key, required=True)
    mine, strange = signed(said("review-all"), key), signed(said("automatic", day=2), key)
    views = sight.views({"car-loan.control": {b"mode": dumps(mine), b"zzz": dumps(strange)}})
    assert views[MODE] == "review-all"
    assert mode(sight, signed(said("automatic", day=3, pipeline="another"), key)) == "review-all"


def test_where_nothing_is_known_that_counts_the_safe_thing_is_done(tmp_path: Path, key: Path) -> None:
    assert mode(seeing(tmp_path, key, required=True), said("automatic")) == "review-all"


def test_a_record_that_was_changed_or_signed_by_another_never_counts(tmp_path: Path, key: Path) -> None:
    good = signed(said("fallback"), key)
    for wrong in (
        msgspec.structs.replace(good, mode="automatic"),
        msgspec.structs.replace(good, by="bob"),
        msgspec.structs.replace(good, signature="AAAA"),
    ):
        assert mode(seeing(tmp_path, key, required=False), good, wrong) == "fallback"
