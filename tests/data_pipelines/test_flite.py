"""The second engine: its words lie where they sound, its bits depend on nothing said before, and no
split but training hears it."""

import numpy as np
import pytest

from data_pipelines import flite, speech, synthetic, voices
from data_pipelines.alignment import SAMPLE_RATE, loudness

TEXT = "in forty five seconds, say twenty-one bananas."


def installed() -> bool:
    try:
        flite.check()
    except ImportError:
        return False
    return True


needs_flite = pytest.mark.skipif(
    not installed(), reason="flite is not installed: apt install flite"
)


@needs_flite
@pytest.mark.parametrize("variant", flite.VOICES)
def test_words_sound_where_they_are_said_to(variant):
    voice = voices.UserVoice(accent=voices.FLITE, variant=variant, rate=150, pitch=60, warp=1.1)
    said = speech.render_user(TEXT, voice)
    names = ["in", "forty", "five", "seconds", "say", "twenty-one", "bananas"]
    assert [word for word, *_ in said.words] == names
    starts = [start for _, start, _ in said.words]
    assert sorted(starts) == starts and said.words[-1][2] <= said.duration_s
    # Between "seconds," and "say" nobody speaks.
    pause = said.wave[round(said.words[3][2] * SAMPLE_RATE) : round(starts[4] * SAMPLE_RATE)]
    assert len(pause) > 0.05 * SAMPLE_RATE
    assert loudness(pause).mean() < 0.2 * loudness(said.wave).mean()


@needs_flite
def test_settings_are_heard_and_nothing_said_before_is():
    rng = np.random.default_rng(0)
    one, other = voices.sample_flite_voice(rng), voices.sample_flite_voice(rng)
    first = speech.render_user(TEXT, one)
    assert not np.array_equal(first.wave[:8000], speech.render_user(TEXT, other).wave[:8000])
    np.testing.assert_array_equal(speech.render_user(TEXT, one).wave, first.wave)
    slow, fast = (
        speech.render_user(TEXT, voices.UserVoice(voices.FLITE, "awb", rate=r)).duration_s
        for r in (120, 200)
    )
    assert slow / fast == pytest.approx(200 / 120, rel=0.05)


@needs_flite
def test_the_share_is_mixed_into_training(tmp_path):
    job = synthetic.Job(str(tmp_path), "train", 3, 6, "answer", flite_share=0.5)
    used = synthetic.render(job, progress=False)["voices"]
    kinds = {name.startswith(voices.FLITE) for name in used}
    assert kinds == {True, False}
    assert all(n.split("+")[1] in flite.TRAIN_VOICES for n in used if n.startswith(voices.FLITE))


def test_without_a_share_the_draws_are_what_they_were():
    plain, mixed = (np.random.default_rng(1) for _ in range(2))
    for _ in range(20):
        voice = speech.Speech(flite_share=0.0).sample_voice(mixed, "train")
        assert voice == voices.sample_voice(plain, "train")


@pytest.mark.parametrize("arguments", [["--split=eval"], ["--split=train", "--voice_bank=x"]])
def test_no_other_split_hears_it(arguments, capsys):
    assert synthetic.main(["--out=x", "--flite_share=0.5", *arguments]) == 2
    assert "accepted is a share up to 1 of --split=train" in capsys.readouterr().err


def test_where_it_is_missing_it_says_how_to_get_it(monkeypatch, capsys):
    def missing(*_, **__):
        raise OSError("libflite.so.1: cannot open shared object file")

    monkeypatch.setattr(flite.ctypes, "CDLL", missing)
    flite._library.cache_clear()
    flite._voice.cache_clear()
    assert synthetic.main(["--out=x", "--flite_share=0.5"]) == 2
    assert "apt install flite" in capsys.readouterr().err
