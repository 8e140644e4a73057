"""f. Says "start" when somebody starts a named action and "stop" when they stop it."""

from __future__ import annotations

from data_pipelines import video
from data_pipelines.phrases import Carriers, lines
from data_pipelines.session import Session
from data_pipelines.skills.repcount import instruct

NAME = "charades"
WEIGHT = 1.6

_DOING = {name: spoken.doing for name, spoken in video.ACTIONS.items()}

WATCH = Carriers(
    train=lines("""
        say start when the person starts {doing} | and stop when the person stops
        tell me start when they begin {doing} | and say stop at the end of it
        when you see {doing} | say start and when it is over say stop
        say start at the first moment of {doing} | then say stop at the last moment
        look out for {doing} | say start when it begins and stop when it ends
        please say start as soon as you see {doing} | and then stop as soon as it is over
        """),
    dev=lines("""
        say start as soon as the person begins {doing} | and say stop when it ends
        """),
    eval=lines("""
        when the person begins {doing} | please say start and say stop when it is over
        tell me start as soon as you see {doing} | and tell me stop when it ends
        say start at the moment they start {doing} | then stop when they stop
        """),
    slots={"doing": tuple(_DOING.values())},
)

CARRIERS = (WATCH,)
MODEL_PHRASES = ("start", "stop")


def scene(s: Session) -> None:
    _, name, waits, lasts = s.draw(
        lambda: (NAME, s.choice(tuple(_DOING)), s.integer(1, 6), s.integer(2, 8))
    )
    start, end = instruct(s, WATCH, doing=_DOING[name])
    shown = s.cursor + s.uniform(0.0, 0.5) if s.chance(0.5) else end + s.uniform(0.1, 0.6)
    before = max(0.0, end - shown)
    begins = round(before + waits + s.uniform(-0.3, 0.7), 3)
    ends = round(begins + lasts + s.uniform(-0.4, 0.6), 3)
    length = round(ends + s.uniform(1.5, 4.0), 3)
    s.fits(shown + length)
    others = []
    if waits >= 4 and s.chance(0.6):  # another action first, which is not meant
        others.append((_other(s, name), round(before + 0.4, 3), round(begins - 0.6, 3)))
    if length - ends > 2.6 and s.chance(0.6):
        others.append((_other(s, name), round(ends + 0.5, 3), round(length - 0.2, 3)))
    clip = video.action(
        s.rng, s.split, name, begins, ends, length, others=others, timing=video.random_timing(s.rng)
    )
    s.show(clip, shown)
    a, b = (round(shown + t, 4) for t in clip.truth["action"])
    s.reply("start", a)
    stop = s.reply("stop", b)
    over = max(stop.end + 0.5, shown + length)
    s.trial("Charades", name, (start, over), name=name, action=[a, b])
    s.cursor = shown + length + 0.2


def _other(s: Session, name: str) -> str:
    return s.choice([n for n in _DOING if n != name])
