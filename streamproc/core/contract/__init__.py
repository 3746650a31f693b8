"""The contract: the JSON Schema that an event must satisfy, and the typed columns that follow from it."""

from streamproc.core.contract.contract import DEEPEST_EVENT, STAGE, Contract, Reading
from streamproc.core.contract.fields import Field, json_path, may_be_missing

__all__ = ["DEEPEST_EVENT", "STAGE", "Contract", "Field", "Reading", "json_path", "may_be_missing"]
