"""c. Speaks on through backchannels, side talk and background voices; backchannels long stories."""

from __future__ import annotations

from data_pipelines.phrases import ACKNOWLEDGEMENTS, SIDE_TALK, Carriers, lines, varied
from data_pipelines.session import GRACE_S, Conflict, Session
from data_pipelines.skills.interruption import LISTS, RECITE, recite

NAME = "overlap"
WEIGHT = 1.8

BACKCHANNEL = "yeah"
# How loud the others are beside somebody who speaks to the model.
GAINS = {"backchannel": (0.35, 0.65), "talking_to_other": (0.3, 0.5), "background": (0.12, 0.3)}
TELLING = Carriers(
    train=varied(
        100,
        """
        let me tell you about my day
        listen to my story
        i have to tell you a story
        let me tell you what happened today
        [okay|now|so|please|just] let me tell you ; (a story|about my day|about my week|about \
            my friend|about my uncle|how my day was|about today|what happened|what we did \
            today|about the bus)
        [please|now|okay|so|just] listen to ; (this story|my story now|what happened|what \
            happened to me|my day|what we did today|what happened on the bus|the story of my day)
        (i have to|i want to|i would like to|i need to|i will) tell you ; (about my day|a \
            story|my story|what happened|what happened today|about the bus|how my day was|about my \
            uncle|this story)
        listen | (i have a story for you|this happened today|here is my story|let me tell you \
            something|i will tell you about my day|i want to tell you what happened)
        (do you know|did you hear|you have to hear|have you heard) ; what happened (today|to \
            me|to my uncle|to us|at the station|to my friend) [listen|let me tell you]
        (you have to|please|you should) (listen to|hear) (my story|this|what happened to \
            us|what happened today)
        (here is|this is) ; (my story|what happened|what happened today|a story for you|how my \
            day was|the story of my day)
        i have (a story|something) (to tell you|for you) [listen|today]
        """,
    ),
    dev=("listen to what happened on my day",),
    eval=("let me tell you my story", "listen i have to tell you what happened"),
)
STORY = Carriers(
    train=varied(
        90,
        """
        we got up and went to the station
        there was a letter on the table
        the bus was late so we were walking
        my uncle told us to wait for him
        he had lost the keys to his car
        then it began to rain all over us
        she said that we could go back
        the music in the street was nice
        we had lunch at the river
        they kept asking about the letter
        nobody knew where the bus was
        and my friend had lost her bag
        (she|he|nobody|my friend|we) (knew|told us|asked) where (her bag was|her keys were|the \
            car was)
        (we|they|she|he) (got up|went out|came back) [late|again|today] (and went|and \
            looked|and ran) (to the station|for the bus|for the keys)
        (my uncle|my friend|nobody|somebody|my mum) (told us|told me|asked us|said) (to wait \
            for the bus|about the rain|about the letter|to come back|where the station was)
        (the bus|my uncle|my friend|the letter) was (late|lost|there|not there|at the station) \
            (again|today|so we had to wait|and nobody knew where)
        (he|she|my friend|my uncle|somebody) had (lost|left|kept|looked for) (the letter|his \
            bag|her keys|the car keys|the phone) (again|in the car|on the bus|at the station)
        (then|so|and then|today|after that) (we had to|they had to|she wanted to|he had to|we \
            wanted to) (wait|go back|leave|look for him|come back) (in the rain|to the station|for \
            the bus|again|for the car)
        (there was|we found|i saw|she had) (a letter|a phone|a bag|some bread) (on the \
            table|in the car|on the bus|in the street|at the door)
        (it|then it|so it) (began to rain|was raining|was dark|was getting late) (in the \
            street|at the station|and we had no car|when we came back|while we were walking)
        (nobody|none of us|she never|we never) (knew|heard|asked|said) (about the letter|where \
            the keys were|what happened|when the bus came)
        (we had|they had|i had) (lunch|dinner|tea|bread) (at the station|in the car|with my \
            uncle|at home|in the street)
        (so|then|and|and then) (she|he|they|my uncle) (told us|told me|said|thought) that (the \
            bus was late|we could leave|it was enough|the car was lost)
        (the music|the street|the station|our lunch|the song) was (nice|so nice|too late|not \
            so nice) (and we went in|and we had to go|as well|that day)
        """,
    ),
    dev=lines("""
        my friend told us about the bus
        we had to wait in the street
        and she had lost her keys
        """),
    eval=lines("""
        we had to wait for the bus in the rain
        my uncle had lost the letter
        she told us that the station was nice
        nobody knew where her bag was
        then they went back to the car
        """),
)

CARRIERS = (TELLING, STORY, ACKNOWLEDGEMENTS, SIDE_TALK, *RECITE.values())
MODEL_PHRASES = (BACKCHANNEL, *dict.fromkeys(w for words in LISTS.values() for w in words))


def _through(s: Session) -> None:
    """Somebody speaks while the model does, and not to it."""
    _, category, name, moment = s.draw(
        lambda: (
            NAME,
            s.choice(tuple(GAINS)),
            s.choice(tuple(LISTS)),
            s.integer(0, 9),
        )
    )
    turn, said = recite(s, name)
    start, end = said[0].start, said[-1].end
    own = category != "background"
    clauses = s.clauses(ACKNOWLEDGEMENTS if category == "backchannel" else SIDE_TALK)
    voice = s.voice if own else s.other_voice
    gain = s.uniform(*GAINS[category])
    # One of ten moments such that the list begins before and goes on after what is heard.
    room = end - start - 1.1 - s.length(clauses, voice)
    if room < 0:
        raise Conflict("the list is too short to speak through")
    at = start + 0.5 + room * (moment + s.uniform(0.0, 1.0)) / 10
    heard = s.say(clauses, at, voice=voice, gain=gain, to_model=own)
    s.trial(
        "Overlap", category, (turn.start, end + GRACE_S),
        overlap=[round(heard.start, 4), round(heard.end, 4)],
        speaking=[round(start, 4), round(end, 4)], answer=" ".join(LISTS[name]),
    )  # fmt: skip
    s.cursor = end + 0.4


def _story(s: Session) -> None:
    """The user tells a story; the model says yeah after each of its sentences."""
    _, _, parts, first = s.draw(lambda: (NAME, "story", s.integer(3, 5), s.integer(0, 11)))
    opening = s.say(s.clauses(TELLING), s.cursor)
    options = STORY.of(s.split)
    first += 12 * s.integer(0, max(0, len(options) // 12 - 1))
    time, triggers = opening.end + s.uniform(0.2, 0.6), []
    for i in range(parts):
        carrier = options[(first + i) % len(options)]
        s.carriers.append(carrier)
        turn = s.say([carrier], time)
        spoken = s.reply(BACKCHANNEL, turn.end)
        triggers.append({"time_s": round(turn.end, 4), "answer": BACKCHANNEL})
        time = spoken.start + s.uniform(0.1, 0.8)
    s.trial("Backchannel", "from_model", (opening.start, time + 0.5), triggers=triggers)
    s.cursor = time + 1.0


def scene(s: Session) -> None:
    (_through if s.chance(0.8) else _story)(s)
