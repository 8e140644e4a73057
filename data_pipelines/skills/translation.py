"""e. Translates a small vocabulary into Spanish, word by word, while the user speaks."""

from __future__ import annotations

from data_pipelines.phrases import CUES, DONE, FILLERS, RUNNING, SPANISH, Carriers, lines, varied
from data_pipelines.session import Conflict, Session
from data_pipelines.skills.cuespeak import run

NAME = "translation"
WEIGHT = 2.0

ASK = Carriers(
    train=varied(
        560,
        """
        translate my words | into spanish as i speak
        please translate | what i say into spanish
        give me the spanish words | while i speak
        say in spanish | the words that you know
        i speak and you translate | into spanish
        while i speak | say my words in spanish
        [please|now|okay|so|can you|could you|would you|i want you to] translate ; (my \
            words|the words i say|what you hear|each word|every word|my story|all that i say|the \
            words of my story) | (into|to) spanish [please|for me|as i speak|while i speak|as i go \
            along|out loud]
        (while|as|when) i (speak|go on|tell my story|say them) ; [please|you|just] translate \
            (my words|what i say|the words|each word|every word that you know|it) | (into|to) \
            spanish [please|for me]
        (while|as|when) i (speak|go on|tell my story) | [please|you|just] (say|give me|tell \
            me|name) ; (my words|the words|each word|every word you know|what you can) in spanish \
            [please|out loud]
        [please|now|okay|can you|could you|i want you to] (say|tell me|give me|name) in \
            spanish ; (what i say|each word that you know|the words that i say|every word you \
            know|my words|what you hear) [as i speak|while i speak|as i go on|please]
        [please|now|okay|can you|would you|just] (say|tell me|give me|name) ; (the spanish|the \
            spanish word|the spanish words) | for (my words|each word i say|what i say|every word \
            that you know|the words you know) [as i speak|while i speak|please|at once]
        (whenever|each time|every time|when|as soon as) (i say|you hear) a word that you know \
            | [please|you] (say it in spanish|translate it|give me the spanish word|translate it \
            into spanish|tell me the spanish for it) [at once|please|as i go on]
        for (every|each|any) word (you know|that you know|of mine that you know) | \
            [please|you] (say|give me|tell me) the spanish [word|one] [at once|as i speak|please]
        i (will speak|speak on|go on|tell my story) ; and | (you translate|you say it|you give \
            me my words|please translate it) | (into spanish|in spanish) [as i go along|please]
        (i want|i would like|i need|let me hear|i want to hear) ; (my words|what i say|each \
            word|every word that you know) | in spanish [please|while i speak|as i speak|as i go \
            on]
        (listen|listen to me|please listen) and (translate|say it|say the words|give me the \
            words) | (into|in) spanish ; (as i speak|while i speak|as you hear them|as i go on)
        (spanish please|in spanish please|into spanish please|now in spanish) | \
            (translate|say|give me) (what i say|my words|each word) [while i speak|as i speak]
        how (do you say|would you say) my words in spanish | (tell me|say them|translate) (as \
            i speak|while i speak|as i go along)
        """,
    ),
    dev=("please give me my words | in spanish as i speak",),
    eval=lines("""
        now while i speak | translate the words that you know into spanish
        say what i say | in spanish please as i speak
        """),
)

CARRIERS = (ASK, RUNNING, FILLERS, DONE)
MODEL_PHRASES = tuple(SPANISH.values())


def _word(s: Session) -> tuple[str, str | None, int]:
    """(cue, answer, gap); a fifth are words without a translation."""
    if s.chance(0.2):
        return s.choice([c for c in CUES if c not in SPANISH]), None, s.integer(0, 1)
    words = tuple(SPANISH)
    _, word, _, gap = s.draw(lambda: (NAME, s.choice(words), s.integer(0, 5), s.integer(0, 1)))
    return word, SPANISH[word], gap


def scene(s: Session) -> None:
    turn = s.say(s.clauses(ASK), s.cursor)
    plan = [_word(s) for _ in range(s.integer(3, 6))]
    cues, answers, gaps = (list(x) for x in zip(*plan, strict=True))
    if not any(answers):
        raise Conflict("nothing to translate")
    triggers, end = run(s, turn.end + s.uniform(0.6, 1.2), cues, answers, gaps)
    s.trial("Translation", "spanish", (turn.start, end + 0.5), triggers=triggers)
    s.cursor = end + 0.6
