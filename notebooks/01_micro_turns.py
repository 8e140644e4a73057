# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Micro-turns
#
# A chat model waits for its turn. An interaction model has none: it hears, sees and reads while it
# speaks and writes. tmi gets there by cutting time into **micro-turns** of 0.2 s. In micro-turn $m$
# the model first *reads* all that came in during $[0.2\,m,\ 0.2\,(m+1))$ and then *writes* all that
# goes out, which plays over the next 0.2 s, $[0.2\,(m+1),\ 0.2\,(m+2))$. Then comes $m+1$, always.
# A conversation is one sequence
#
# `in 0, out 0, in 1, out 1, in 2, out 2, …`
#
# and saying nothing is an output like any other. There is no detector of speech, no timer and no
# rule around the model: when to speak, when to wait and when to stop are predictions, five of them
# a second.
#
# This notebook streams one held-out session through a trained model, draws the sequence position by
# position, and then changes one field of the config to see which part of it moves. It takes less
# than a minute on two CPU cores.

# %%
import functools
import os
import pathlib
import time

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display
from matplotlib.patches import Patch

from tmi import config as config_lib
from tmi.data.features import to_microturns
from tmi.decode.step import init_state, input_chunk, microturn_step
from tmi.decode.stream import SessionReader, example
from tmi.evals.timeline import draw_timeline
from tmi.evals.trace import Trace, TraceTurn
from tmi.media.audio import DMel, from_int16
from tmi.media.text import Tokenizer
from tmi.microturn import EOM_ID, SPEAK_ID, Microturn, Stream, lay_out, layout
from tmi.train.checkpoint import restore_params

# %matplotlib inline

# %% [markdown]
# ## The session
#
# The shipped checkpoint brings a session along that it was not trained on, in a voice it never
# heard. `TMI_NANO` names another checkpoint (with an `example.session`), if you have trained one.

# %%
root = next(p for p in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents) if (p / "tmi").is_dir())
nano = pathlib.Path(os.environ.get("TMI_NANO", "assets/nano"))
nano = nano if nano.is_absolute() else root / nano

config, params = restore_params(nano)
record = example(str(nano))
lay = layout(config)
tokenizer = Tokenizer.load(config.text.tokenizer)
user_audio = from_int16(record.user_audio)

print(f"{record.duration_s} s = {lay.num_microturns(record.duration_s)} micro-turns")
print("the user says: ", " ".join(word for word, _, _ in record.user_words))
print("the user types:", " / ".join(text for _, text in record.text_in) or "nothing")
print(f"the camera sends {len(record.frames)} frames")
Audio(user_audio, rate=lay.sample_rate)

# %% [markdown]
# ## The positions of a micro-turn
#
# Sound comes in always, a picture or typed text only at times, and output may be one token or many.
# So micro-turns are **ragged**; nothing is padded, and a silent one costs a single output position:
#
# | position | how many | holds |
# |---|---|---|
# | `AUDIO_IN` | a fixed number | a few frames of dMel: log-mel energies in 16 levels |
# | `VIDEO_IN` | only if a frame came | the last two frames of the slice, as patches |
# | `TEXT_IN` | a token each, only if text came | what the user typed |
# | `TEXT_OUT` | a token each | what the model writes, spoken or not |
# | `TEXT_OUT`: END | exactly one | `<eom>`: nothing more, or `<speak>`: sound follows |
# | `AUDIO_OUT` | only after `<speak>` | mel frames that fill the next 0.2 s with speech |
#
# The module `tmi/microturn.py` alone knows this layout and the clock. The trainer, the decoder and
# the scorers ask it, so that none of them can be off by one:

# %%
m = lay.microturn_reading(4.7)
print(f"sound of second 4.7 is read in micro-turn {m}: {np.round(lay.input_interval(m), 1)} s,")
print(f"what the model writes upon it plays over       {np.round(lay.output_interval(m), 1)} s")

# %% [markdown]
# Next, a picture of a sequence. Each micro-turn is a column over the 0.2 s that it *reads*; its
# positions follow each other from the top down, and the next column goes on. Above is the user's
# sound, below the model's. An output position stands one column left of the sound that it makes.

# %%
COLOURS = {
    "AUDIO_IN": "#4477aa",
    "VIDEO_IN": "#228833",
    "TEXT_IN": "#66ccee",
    "TEXT_OUT": "#ccbb44",
    "<eom>": "#dddddd",
    "<speak>": "#ee8866",
    "AUDIO_OUT": "#cc3311",
}
DARK = ("AUDIO_IN", "VIDEO_IN", "AUDIO_OUT")  # colours that need white letters


def kinds(seq):
    """What each position holds, as a key of COLOURS."""
    ends = {EOM_ID: "<eom>", SPEAK_ID: "<speak>"}
    return [
        ends.get(int(token), "TEXT_OUT") if stream == Stream.TEXT_OUT else Stream(stream).name
        for stream, token in zip(seq.stream, seq.token, strict=True)
    ]


def draw_sequence(ax, seq, start, end, labels=False):
    """The positions of the micro-turns that read [start, end) seconds, a column each."""
    depth = np.arange(len(seq)) - np.searchsorted(seq.microturn, seq.microturn)
    left = seq.microturn * lay.seconds
    kind = kinds(seq)
    ax.bar(
        left, np.ones(len(seq)), lay.seconds, depth, align="edge",
        color=[COLOURS[k] for k in kind], edgecolor="white", linewidth=0.8 if labels else 0.2,
    )  # fmt: skip
    shown = np.flatnonzero((left >= start - 1e-6) & (left < end - 1e-6))
    for s in shown if labels else ():
        text = f'"{tokenizer.decode([int(seq.token[s])])}"' if "TEXT" in kind[s] else kind[s]
        ax.text(
            left[s] + lay.seconds / 2, depth[s] + 0.5, text, ha="center", va="center", fontsize=7,
            color="white" if kind[s] in DARK else "black", clip_on=True,
        )  # fmt: skip
    ax.set(xlim=(start, end), ylim=(depth[shown].max() + 1, 0), yticks=[])
    ax.set_ylabel("positions", rotation=0, ha="right", va="center")


def draw_wave(ax, wave, name, start, end):
    """A wave over the seconds [start, end)."""
    part = wave[round(start * lay.sample_rate) : round(end * lay.sample_rate)]
    ax.plot(start + np.arange(len(part)) / lay.sample_rate, part, color="0.3", linewidth=0.5)
    ax.set(xlim=(start, end), ylim=(-0.6, 0.6), yticks=[])
    ax.set_ylabel(name, rotation=0, ha="right", va="center")


def draw(seq, model_audio, start=0.0, end=record.duration_s, labels=False, title=""):
    """The user's sound, the positions and the model's sound on one time axis."""
    fig, (above, middle, below) = plt.subplots(
        3, 1, sharex=True, figsize=(15, 4.2), height_ratios=(1, 3, 1), dpi=80, layout="tight"
    )
    draw_wave(above, user_audio, "user", start, end)
    draw_sequence(middle, seq, start, end, labels)
    draw_wave(below, model_audio, "model", start, end)
    step = lay.seconds if labels else 1.0
    below.set_xticks(np.arange(start, end + 1e-6, step))
    below.set_xlabel("seconds since the session opened")
    above.set_title(title, loc="left", fontsize=10)
    patches = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    above.legend(handles=patches, ncols=len(patches), loc="lower right", bbox_to_anchor=(1, 1))
    plt.show()


# %% [markdown]
# ### What the model is trained to write
#
# A session of the corpus holds sounds, words and times. `to_microturns` puts them on the clock: the
# tokens of a word into the micro-turn in which the word begins to *play*. `lay_out` lists the
# positions. This is the very row that the trainer reads, here around the first answer.

# %%
targets = to_microturns(record, config, tokenizer, DMel(config.audio))
target = lay_out(lay, targets)

spoken = np.zeros(len(user_audio) + lay.samples, np.float32)  # the model's track of the corpus
for start_s, wave in record.model_audio:
    i = round(start_s * lay.sample_rate)
    spoken[i : i + len(wave)] += from_int16(wave)

answer_s = record.model_words[0][1]  # when it begins to sound
close = lay.seconds * (lay.microturn_reading(answer_s) - 5)
draw(target, spoken, close, close + 2.4, labels=True, title="the target, close up")
draw(target, spoken, title="the target, all of it")

# %% [markdown]
# Read the close-up from left to right. While the user speaks, each column ends with `<eom>`: the
# right output is silence, and it is *predicted*, from sound that has come in so far and never from
# what comes later. The column that reads the end of the user's last word is silent, too. The next
# one brings the first words of the answer, `<speak>`, and a patch of mel frames, whose sound begins
# one column further right. So an answer is heard 0.2 to 0.4 s after the question ends. A column may
# bring two words (both begin in the same 0.2 s) or none (a long word goes on).
#
# In the picture of the whole session, look at the other columns: the pause within the user's
# sentence, in which the right output is silence as well; typed text, of which a micro-turn reads at
# most `config.microturn.max_text_in` tokens and leaves the rest to the next; and video, which is
# answered when the answer comes into view, with no sound that would give the cue.
#
# ## Streaming
#
# Live, the input half of each micro-turn is given and the output half is the model's own. One
# compiled call does a whole micro-turn: it appends the input positions, writes tokens until an END,
# lets the flow head draw the patch if the END was `<speak>`, and turns mel frames into sound. All
# that a session carries on is `StreamState`, a pytree of fixed size. (`tmi.decode.stream.Decoder`
# is this loop for many sessions at once.)


# %%
def stream(config, name):
    """Lives through the session with `config`: the sequence as it came to be, and its trace."""
    reader = SessionReader(config, tokenizer, DMel(config.audio))
    step = jax.jit(functools.partial(microturn_step, config), donate_argnums=1)
    state, seed = init_state(config, 1), np.array([config.decode.seed], np.uint32)
    takes_part, starts_afresh = np.array([True]), np.array([False])
    patch = np.zeros((lay.speech_positions * lay.speech_frames, lay.speech_mels), np.float32)

    microturns, turns, waves = [], [], [np.zeros(lay.samples, np.float32)]
    for m in range(lay.num_microturns(record.duration_s)):
        # Read: what came in since the last micro-turn, and nothing later.
        frames = [(t, image) for t, image in record.frames if lay.microturn_reading(t) == m]
        typed = "".join(text for t, text in record.text_in if lay.microturn_reading(t) == m)
        read = reader.read(user_audio[m * lay.samples : (m + 1) * lay.samples], frames, typed)

        # Write.
        began = time.perf_counter()
        chunk = input_chunk(config, [read])
        state, out = step(params, state, chunk, takes_part, starts_afresh, seed)
        tokens, count, spoke, wave = (x[0] for x in jax.device_get(out[:4]))
        wall_ms = (time.perf_counter() - began) * 1e3

        # Keep a record of it.
        ids = [int(t) for t in tokens[:count] if t not in (EOM_ID, SPEAK_ID)]
        microturns.append(
            Microturn(read.audio, read.video, read.text_in, ids, patch if spoke else None)
        )
        text, seen = tokenizer.decode(ids), read.video is not None
        turns.append(TraceTurn(m, tokenizer.decode(read.text_in), seen, text, bool(spoke), wall_ms))
        waves.append(wave)
    trace = Trace(record.id, name, lay.seconds, turns, user_audio, np.concatenate(waves))
    return lay_out(lay, microturns), trace


sequence, trace = stream(config, "as shipped")
wall = np.median([turn.wall_ms for turn in trace.turns])
print(f"a micro-turn took {wall:.1f} ms (median) of the {lay.seconds * 1e3:.0f} ms that it lasts")

# %%
draw(sequence, trace.output_audio, close, close + 2.4, labels=True, title="the model, close up")
draw(sequence, trace.output_audio, title="the model, all of it")

# %% [markdown]
# Compare these with the targets above. The blue, green and cyan positions are the same, for they
# are the input. All others are what the model chose: the END of every column is its decision to
# keep silent or to speak.
#
# Now listen: the user is on the left, the model on the right. The timeline shows the same with the
# truth beneath: lines where an answer is due, and grey where any speech would be a false alarm.


# %%
def listen(trace):
    """A player: user left, model right."""
    n = max(len(trace.user_audio), len(trace.output_audio))
    tracks = [np.pad(w, (0, n - len(w))) for w in (trace.user_audio, trace.output_audio)]
    display(Audio(np.stack(tracks), rate=lay.sample_rate))


listen(trace)
_ = draw_timeline(trace, record)

# %% [markdown]
# ## Change one field and look again
#
# `decode.temperature` is 0: each token is the likeliest one. At 1 tokens are drawn from the model's
# probabilities instead, the END tokens among them, and those are drawn five times a second. A text
# model at temperature 1 words its answer differently; here *when* it speaks is up for the draw,
# too. Before you run the cell, guess: if in each of the silent micro-turns the model held `<eom>`
# for 99 % certain, how often would it break its silence in this session?
#
# The config is edited in its open view and checked again by `from_config_dict`. Nothing else
# changes: the same weights, the same session, the same seed.

# %%
view = config_lib.to_config_dict(config)
view.decode.temperature = 1.0
changed = config_lib.from_config_dict(view)
print(config_lib.differing_fields(config, changed, ignore=()))

sequence_2, trace_2 = stream(changed, "changed")
draw(sequence, trace.output_audio, title="as shipped")
draw(sequence_2, trace_2.output_audio, title="changed")


# %%
def first_difference(a, b):
    """The first micro-turn in which two traces wrote something else; None if there is none."""
    pairs = zip(a.turns, b.turns, strict=True)
    return next((s.m for s, t in pairs if (s.text_out, s.spoke) != (t.text_out, t.spoke)), None)


looks = {
    "target": (target, record.model_words),
    "as shipped": (sequence, trace.words()),
    "changed": (sequence_2, trace_2.words()),
}
for name, (seq, words) in looks.items():
    held = kinds(seq)
    print(f"{name}:", ", ".join(f"{held.count(k)} {k}" for k in COLOURS))
    print("   ", "  ".join(f"{word} ({start:.1f})" for word, start, _ in words) or "no word")

m = first_difference(trace, trace_2)
if m is None:
    print("\nNo micro-turn differs: the model was sure of every one of its decisions.")
else:
    print(f"\nThe two part in micro-turn {m}, heard from {lay.output_interval(m)[0]:.1f} s on.")
listen(trace_2)

# %% [markdown]
# The input positions are again the same. Up to the micro-turn in which the draw first fell out
# otherwise, so are the outputs: that is causality. From there on the two sessions go apart, since
# the model reads its own output back as part of the sequence.
#
# Other fields to try in the cell above, and what to look for:
#
# * `view.flow.steps = 1`: the flow head draws a patch in one Euler step and not four. When and what
#   it says should hardly change, how it sounds will.
# * `view.model.global_blocks = 1`: the model remembers about as many positions as one block holds,
#   a few seconds. Which answers need more?
# * `view.speech.griffin_lim_iters = 0`: the sequence must stay the same to the last position, for
#   the waveform stage comes after it.
# * `view.microturn.seconds = 0.4`: this the weights cannot follow, they were trained at 0.2 s.
#   `experiments/ablate_tick.py` trains one model for each length.
#
# Where to go on: `tmi/microturn.py` (the layout), `tmi/decode/step.py` (the call that was
# streamed), `tmi/models/interaction.py` (the model), `experiments/` (configs to train your own).
