"""A classifier of attacks in ONNX, with the vocabulary of its pieces: a number for each text, within a time."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from streamproc.core.llm.classifier import stretches
from streamproc.core.llm.request import TEXT
from streamproc.core.llm.wordpiece import WordPiece
from streamproc.core.processor import Answer, Score
from streamproc.errors import EnvironmentFault, UserError
from streamproc.io.onnx import HASH_BYTES, session_of

PACKAGE: Final = "stackone-defender"
"""Stands in a file for the classifier in this package: its model and its vocabulary are read, and its code is not."""
VOCABULARY: Final = "tokenizer.json"
CONFIG: Final = "classifier_config.json"


class Classifier:
    """Answers asks with the column ``text``: the chance that it is an attack, 0 for texts that are too short.

    One text after another, without padding: in a model with numbers of eight bits a text's score depends on what it is
    padded with, and on the texts beside it.
    """

    def __init__(self, folder: Path) -> None:
        """``folder`` has one ONNX file, whose inputs are ``input_ids`` and ``attention_mask`` and whose first output
        begins with the logit of an attack; ``tokenizer.json`` with a WordPiece vocabulary, and perhaps
        ``classifier_config.json`` with a temperature."""
        models = sorted(folder.glob("*.onnx"))
        if len(models) != 1:
            raise UserError(f"the classifier {folder.name} has {len(models)} ONNX files", "it is a folder with one")
        try:
            model, vocabulary = models[0].read_bytes(), (folder / VOCABULARY).read_bytes()
            config = (folder / CONFIG).read_bytes() if (folder / CONFIG).exists() else b"{}"
        except OSError as error:
            raise UserError(f"cannot read the classifier {folder.name}: {error.strerror}") from error
        self._session = session_of(model, models[0].name)
        if {node.name for node in self._session.get_inputs()} != {"input_ids", "attention_mask"}:
            hint = "it takes `input_ids` and `attention_mask`, as models of texts do"
            raise UserError(f"{models[0].name} is no classifier of texts", hint)
        self._words, self._temperature = _words(vocabulary, folder), _temperature(config, folder)
        self._name = self._session.get_outputs()[0].name
        self.version = hashlib.blake2b(model + vocabulary + config, digest_size=HASH_BYTES).hexdigest()

    def answer(self, ask: Score, deadline: float) -> Answer:
        """A number for each text, or the reason why there is none, by ``deadline`` in seconds of ``time.monotonic``."""
        known = dict[str, float]()
        values, reasons = list[float | None](), list[str | None]()
        for text in ask.columns[TEXT].tolist():
            if text not in known and time.monotonic() < deadline:
                known[text] = self.score(text)
            value = known.get(text)
            usable = value is not None and math.isfinite(value)
            values.append(value if usable else None)
            reasons.append(None if usable else "timeout" if value is None else "not_finite")
        return Answer(values, reasons, self.version)

    def score(self, text: str) -> float:
        """The largest chance of the stretches that are read."""
        return max((self._chance(pieces) for pieces in stretches(self._words, text)), default=0.0)

    def _chance(self, pieces: list[int]) -> float:
        ids = np.array([pieces], np.int64)
        [logits] = self._session.run([self._name], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        logit = float(np.asarray(logits).reshape(-1)[0]) / self._temperature
        return 1.0 / (1.0 + math.exp(-min(max(logit, -700.0), 700.0))) if math.isfinite(logit) else math.nan


def open_classifier(named: str, folder: Path) -> Classifier:
    """The classifier that a file names: the package's, or a folder beside the file."""
    if named != PACKAGE:
        return Classifier(folder / named)
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise EnvironmentFault(f"{PACKAGE} is not installed", "pip install 'streamproc[llm]'")
    models = sorted((Path(found.submodule_search_locations[0]) / "models").glob("*/*.onnx"))
    if len(models) != 1:
        raise EnvironmentFault(f"this {PACKAGE} has no model, or several", "pip install 'streamproc[llm]'")
    return Classifier(models[0].parent)


def _words(raw: bytes, folder: Path) -> WordPiece:
    try:
        model = orjson.loads(raw)["model"]
        vocab = model["vocab"]
        if model["type"] != "WordPiece" or not all(type(one) is int and one >= 0 for one in vocab.values()):
            raise ValueError("another kind")
        return WordPiece({name: vocab[name] for name in ("[UNK]", "[CLS]", "[SEP]")} | vocab)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "it wants `tokenizer.json` with an uncased WordPiece vocabulary, as BERT's"
        raise UserError(f"{VOCABULARY} of the classifier {folder.name} cannot be used", hint) from error


def _temperature(raw: bytes, folder: Path) -> float:
    try:
        stated: Any = orjson.loads(raw).get("calibration", {}).get("temperatureT", 1.0)
        if isinstance(stated, bool) or not 0 < float(stated) < math.inf:
            raise ValueError("no temperature")
        return float(stated)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{CONFIG} of the classifier {folder.name} has no temperature above 0") from error
