"""Loads a draft for a target: with its vocabulary, or with another one."""

from __future__ import annotations

import logging

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.engine.loading.checkpoint import load_config
from adasd.engine.loading.model import Progress, silent
from adasd.engine.loading.vocabulary import check_vocabularies, difference
from adasd.engine.translated import TranslatedDraft
from adasd.errors import ConfigError
from adasd.ports import Engine
from adasd.text.tokenizer import Tokenizer
from adasd.text.translation import Translation

_log = logging.getLogger(__name__)

LEAST_SHARED = 0.1
"""Share of a draft's tokens that its target must have, so that drafting is worth a try."""


def load_draft(config: EngineConfig, target: str, progress: Progress = silent) -> Engine:
    """The engine of a draft for the model ``target``, which speaks the target's ids; raises ConfigError.

    A draft with another vocabulary drafts for greedy and seeded requests only, which is logged.
    """
    different = difference(target, config.model, config.trust_remote_code)
    if different is None:
        limit = check_vocabularies(target, config.model, config.trust_remote_code)
        return TorchEngine.from_config(config, progress, vocab_limit=limit)
    _log.warning("%s: %s; it drafts for greedy and seeded requests only", config.model, different)
    translation = translation_of(target, config.model, config.trust_remote_code)
    vocab_size = int(load_config(target, config.trust_remote_code).get_text_config().vocab_size)
    engine = TorchEngine.from_config(config, progress)
    return TranslatedDraft(engine, translation.to_draft, translation.to_target, vocab_size)


def translation_of(target: str, draft: str, trust_remote_code: bool = False) -> Translation:
    """Between two tokenizers; ConfigError if they share too little."""
    ours, its = (Tokenizer.load(each, trust_remote_code=trust_remote_code) for each in (target, draft))
    translation = Translation(ours, its)
    if translation.num_shared < LEAST_SHARED * its.vocab_size:
        raise ConfigError(
            f"the vocabularies differ: the target has {translation.num_shared} of the draft's {its.vocab_size} tokens; "
            "take a draft of the target's family"
        )
    return translation
