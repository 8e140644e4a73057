"""f. Says "start" when somebody starts a named action and "stop" when they stop it."""

from __future__ import annotations

from data_pipelines import video
from data_pipelines.phrases import Carriers, lines, varied
from data_pipelines.session import Session
from data_pipelines.skills.repcount import instruct

NAME = "charades"
WEIGHT = 1.6

_DOING = {name: spoken.doing for name, spoken in video.ACTIONS.items()}

WATCH = Carriers(
    train=varied(
        120,
        """
        say start when the person starts {doing} | and stop when the person stops
        tell me start when they begin {doing} | and say stop at the end of it
        when you see {doing} | say start and when it is over say stop
        say start at the first moment of {doing} | then say stop at the last moment
        look out for {doing} | say start when it begins and stop when it ends
        please say start as soon as you see {doing} | and then stop as soon as it is over
        [please|now|okay|so] (say|tell me) start (when|as soon as|once) (they start|they \
            begin|the person starts|somebody begins|you see them start) {doing} ; and [say|tell \
            me] stop (when they stop|when it is over|at the end|as soon as it ends)
        (when|as soon as|once) (you see|there is|somebody is) {doing} ; [you|please] say start \
            | and [please] say stop (when it stops|as soon as it stops|when that is over|at its \
            end)
        (look out for|look for|wait for|watch for) {doing} | [then|and] (say|tell me) start \
            (when it begins|when it starts|as it begins) ; and [then] stop (when it is over|when \
            it stops|at the end of it)
        (i want you to|i would like you to|can you|could you|you have to|please can you) say \
            start | (when|as soon as) (you see {doing}|{doing} begins|they begin {doing}|somebody \
            starts {doing}) | and [say] stop (when it is over|once it stops|when they stop that)
        (somebody will be|the person will be|soon you will see somebody) {doing} | say start \
            (when it begins|as soon as that starts) and stop (when it ends|when that is over|as \
            soon as it stops)
        (at the moment|at the first moment) [when|that] (they start|the person begins|somebody \
            begins|you see them start) {doing} | (you say|tell me|please say) start | and stop at \
            (the last|the moment they end it|the end)
        (say|tell me) start and stop | (as|when) (the person|somebody) (starts|begins) and \
            (stops|ends) {doing}
        [please|now] watch (the person|them|what they do) | (say|tell me) start when {doing} \
            (begins|starts) ; and stop when (it ends|it is over|they stop)
        (for|with) {doing} | (say|tell me) start at the (first moment|start of it) ; and [say] \
            stop at the (last moment|end of it)
        once the {doing} (begins|starts) | [please|you] say start | and once (it is over|it \
            ends|that stops) [please] say stop
        tell me when (they begin|they start|somebody begins|the person starts) {doing} | [say] \
            start for that | and [say] stop when (they end it|it is over|that ends)
        {doing} is what i want you to (see|look for|watch for) | (say|tell me) start when it \
            begins [and] | stop when it (ends|is over|stops)
        """,
    ),
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
