"""The skills of the corpus. A new one is one file here and one line in NAMES.

A skill's module has NAME, WEIGHT (share of its scenes in the mixture), CARRIERS (what the user
says), MODEL_PHRASES (all that the model ever says aloud in it) and `scene(session)`, which places
one scene at `session.cursor` or raises Conflict.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from data_pipelines.phrases import SHARED

# Files of this folder. Scenes are drawn in this order: sorting would change the corpus of a seed.
NAMES = (
    "answer",
    "interruption",
    "overlap",
    "timespeak",
    "cuespeak",
    "translation",
    "repcount",
    "charades",
    "watch",
    "typed",
    "refusal",
)
MODULES: tuple[ModuleType, ...] = tuple(import_module(f"{__name__}.{name}") for name in NAMES)
SKILLS: dict[str, ModuleType] = {module.NAME: module for module in MODULES}


def choose(names: str) -> dict[str, ModuleType]:
    """The skills of a list such as "answer,timespeak:6" (see `mixture`), all for ""."""
    return {n: SKILLS[n] for n in mixture(names)}


def mixture(names: str) -> dict[str, float]:
    """The weights of a comma-separated list of skills, all of them for "": WEIGHT of its module, or
    what a skill is given, as in "timespeak:6". "all" adds those not listed.

    Raises ValueError naming what is no skill or no weight.
    """
    listed = dict(
        (name.strip(), weight.strip())
        for name, _, weight in (n.partition(":") for n in names.split(",") if n.strip())
    )
    if listed.pop("all", None) is not None or not listed:
        listed |= {n: "" for n in SKILLS if n not in listed}
    unknown = [n for n in listed if n not in SKILLS]
    if unknown:
        raise ValueError(f"no skill {', '.join(unknown)}; there are {', '.join(SKILLS)}")
    return {n: _weight(n, w) if w else SKILLS[n].WEIGHT for n, w in listed.items()}


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight {text!r} of skill {name}; accepted: a number above 0")
    return weight


def user_texts(skills: dict[str, ModuleType], split: str) -> list[str]:
    """Every utterance of a user that `split` may need, sorted: what --list_phrases prints."""
    carriers = [c for module in skills.values() for c in module.CARRIERS] + list(SHARED)
    return sorted({text for c in carriers for text in c.texts(split)})


def model_texts(skills: dict[str, ModuleType]) -> list[str]:
    """Every phrase the model may say aloud, sorted."""
    return sorted({text for module in skills.values() for text in module.MODEL_PHRASES})
