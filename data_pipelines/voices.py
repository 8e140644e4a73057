"""User voices: what varies between speakers, and which voices belong to which split.

A voice is an espeak-ng accent and variant plus what no variant covers: tempo, pitch, vocal-tract
length (a spectral warp), the band a telephone or a cheap microphone leaves, and level. Corpora for
training may mix in voices of a second engine (flite.py). The model's own voice is a third one's and
is in none of the pools.
"""

import dataclasses
import functools
import hashlib
import math

import numpy as np

from data_pipelines import flite, timbres

SPLITS = ("train", "dev", "eval")

ACCENTS = (
    "en",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-x-rp",
    "en-us",
    "en-us-nyc",
)

# Variants of espeak-ng 1.52 in families of one timbre: members share a split, so that an evaluation
# voice is not a training voice under another name. Left out are 29 variants of which a recogniser
# understood less than half of 20 words, and copies of the ones here.
_FAMILIES = (
    "Alex", "Denis", "Diogo", "Gene Gene2", "Henrique", "Hugo", "Mario", "Mike mike2",
    "Mr_serious", "Nguyen", "Reed", "Storm", "UniRobot",
    "adam caleb klatt klatt2 klatt3 klatt4 klatt5 klatt6", "anika", "announcer", "belinda",
    "benjamin", "croak fast", "david", "ed", "edward edward2", "f1", "f2", "f3", "f4", "f5",
    "grandpa", "iven iven2 iven3 iven4", "john", "m1", "m2", "m3", "m4", "m5", "m6", "m7",
    "m8 robosoft6", "max robosoft8", "michel", "miguel", "pablo", "paul", "pedro", "quincy",
    "rob", "robert", "robosoft robosoft2 robosoft3 robosoft4 robosoft5 robosoft7", "sandro",
    "steph steph2 steph3", "victor", "whisper",
)  # fmt: skip
FLITE = "flite"  # in place of an accent
FLITE_WORDS_A_MINUTE = 170  # of its voices unstretched
FLITE_PITCH_STEP = 1.6  # the factor of 50 units of pitch
UNEVEN = (0.1, 0.32)  # of the train split's voices; beyond it words merge
DRAWN_SHARE = 0.75  # of the train split's speakers: a timbre made at random


@dataclasses.dataclass(frozen=True)
class UserVoice:
    """One speaker. Fields after `variant` vary freely within a split.

    Attributes:
      accent: espeak-ng language file, one of `ACCENTS`; "" for a voice of a bank; FLITE for one of
        flite's.
      variant: espeak-ng variant, or flite's voice; "" for a voice of a bank.
      rate: words a minute (ignored for a voice of a bank).
      pitch: 0 to 99, flite's to 125; 50 is the variant's own (ignored for a voice of a bank).
      pitch_range: 0 (monotone) to 99 (ignored for a voice of a bank).
      warp: factor on all formants and the pitch; above 1 is a shorter vocal tract.
      band_hz: (low, high) edges that pass; (0, 8000) is the full band.
      level_db: RMS of the speech in dB below full scale.
      bank: name of the voice in a `VoiceBank`; "" for espeak-ng.
      uneven: standard deviation of the logarithm of each word's own tempo (espeak-ng alone), and
        of its pitch. espeak-ng's voices share their rhythm: relative lengths of words differ by .14
        between them, by twice as much between engines.
    """

    accent: str = "en-us"
    variant: str = "m3"
    rate: int = 165
    pitch: int = 50
    pitch_range: int = 50
    warp: float = 1.0
    band_hz: tuple[float, float] = (0.0, 8000.0)
    level_db: float = -26.0
    bank: str = ""
    uneven: float = dataclasses.field(default=0.0, repr=False)  # `seed` is older than it

    @property
    def name(self) -> str:
        """Short name for reports, e.g. "en-us+f1"."""
        return self.bank or f"{self.accent}+{self.variant}"

    @property
    def seed(self) -> int:
        """A number made of all fields, the same on every machine."""
        return int(hashlib.sha256(repr(self).encode()).hexdigest()[:7], 16)


def _split_of(family: str) -> str:
    x = int(hashlib.sha256(f"voice:{family}".encode()).hexdigest()[:8], 16) / 2**32
    return "train" if x < 0.6 else "dev" if x < 0.8 else "eval"


@functools.cache
def voice_pool(split: str) -> tuple[tuple[str, str], ...]:
    """All (accent, variant) of a split; no variant, nor one of its family, is in two splits. The
    drawn timbres are the train split's.

    Raises:
      ValueError: unknown split.
    """
    check_split(split)
    variants = [v for f in _FAMILIES if _split_of(f) == split for v in f.split()]
    if split == "train":
        variants += timbres.names()
    return tuple((a, v.replace("_", " ")) for a in ACCENTS for v in variants)


@functools.cache
def _pools(split: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    """The split's voices: those the library brings, and those of drawn timbres."""
    drawn = [[], []]
    for voice in voice_pool(split):
        drawn[timbres.definition(voice[1]) is not None].append(voice)
    return tuple(map(tuple, drawn))


def check_split(split: str) -> None:
    """Raises ValueError unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")


def sample_voice(rng: np.random.Generator, split: str) -> UserVoice:
    """Draws a speaker of `split`; the same rng state gives the same speaker."""
    brought, drawn = _pools(split)
    pool = drawn if drawn and rng.random() < DRAWN_SHARE else brought
    accent, variant = pool[rng.integers(len(pool))]
    voice = UserVoice(
        accent=accent,
        variant=variant,
        rate=int(rng.integers(125, 206)),
        pitch=int(rng.integers(25, 76)),
        pitch_range=int(rng.integers(25, 76)),
        **_sample_channel(rng, max_warp=0.13),
    )
    if split != "train":
        return voice
    return dataclasses.replace(voice, uneven=float(rng.uniform(*UNEVEN)))


def sample_flite_voice(rng: np.random.Generator) -> UserVoice:
    """Draws a speaker of flite's training voices: there are few, all men's of 100 to 130 Hz, so
    more of them is varied, and a shorter vocal tract speaks higher."""
    variant = flite.TRAIN_VOICES[rng.integers(len(flite.TRAIN_VOICES))]
    rate = int(rng.integers(130, 216))
    channel = _sample_channel(rng, max_warp=0.22)
    octaves = rng.uniform(-0.4, 0.5) + 1.5 * math.log2(channel["warp"]) * rng.random()
    pitch = round(50 + 50 * octaves * math.log(2) / math.log(FLITE_PITCH_STEP))
    return UserVoice(
        accent=FLITE, variant=variant, rate=rate, pitch=int(np.clip(pitch, 10, 125)), **channel
    )


def sample_bank_voice(rng: np.random.Generator, names: tuple[str, ...]) -> UserVoice:
    """Draws one of a bank's voices and a channel; tempo and pitch stay the recording's."""
    name = names[rng.integers(len(names))]
    return UserVoice(accent="", variant="", bank=name, **_sample_channel(rng, max_warp=0.0))


def _sample_channel(rng: np.random.Generator, max_warp: float) -> dict:
    low = float(rng.uniform(60.0, 320.0)) if rng.random() < 0.4 else 0.0
    high = float(rng.uniform(3000.0, 7000.0)) if rng.random() < 0.4 else 8000.0
    return {
        "warp": float(np.exp(rng.uniform(-max_warp, max_warp))),
        "band_hz": (low, high),
        "level_db": float(rng.uniform(-34.0, -18.0)),
    }
