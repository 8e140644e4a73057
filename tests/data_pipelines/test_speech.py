"""Voices, rooms and alignment: same bits every time, splits apart, trustworthy word times."""

import dataclasses
import pickle

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import alignment, rooms, skills, speech, timbres, voices
from data_pipelines.speech import SAMPLE_RATE, Speech
from data_pipelines.voice_bank import DamagedRecording, VoiceBank, phrase_key
from data_pipelines.voices import SPLITS, UserVoice

PHRASES = ("remind me in four seconds", "count every red one", "stop")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture
def bank_dir(tmp_path):
    """Two voices at other rates; the second lacks a phrase."""
    for name, rate, variant, texts in (
        ("ann", 44100, "f4", PHRASES),
        ("bob", 8000, "m7", PHRASES[:2]),
    ):
        (tmp_path / name).mkdir()
        for text in texts:
            wave = speech.render_user(text, UserVoice(variant=variant)).wave
            wave = np.pad(wave, (SAMPLE_RATE // 3, SAMPLE_RATE // 5))
            wave = soxr.resample(wave, SAMPLE_RATE, rate)
            soundfile.write(tmp_path / name / f"{phrase_key(text)}.wav", wave, rate)
    return tmp_path


def assert_well_formed(utterance):
    wave, words = utterance.wave, utterance.words
    assert wave.dtype == np.float32 and wave.ndim == 1 and np.abs(wave).max() <= 1
    starts = [start for _, start, _ in words]
    assert all(a < b for a, b in zip(starts, starts[1:], strict=False))
    assert all(0 <= start < end <= utterance.duration_s + 1e-9 for _, start, end in words)
    assert all(a[2] <= b[1] + 1e-9 for a, b in zip(words, words[1:], strict=False))
    rms = alignment.loudness(wave)  # of 5 ms
    loud = np.flatnonzero(rms > 0.01 * rms.max())
    assert loud[0] <= 4 and len(rms) - loud[-1] <= 10


@given(
    seed=st.integers(0, 2**32),
    split=st.sampled_from(SPLITS),
    texts=st.lists(
        st.sampled_from((*PHRASES, "Well, twenty-one of the dogs -- are at home!", "a 7 b")),
        min_size=2, max_size=3,
    ),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_a_user_utterance_depends_on_text_and_voice_alone(seed, split, texts):
    voice = voices.sample_voice(np.random.default_rng(seed), split)
    assert voice == voices.sample_voice(np.random.default_rng(seed), split)
    said = [speech.render_user(text, voice) for text in texts]
    for text, first in zip(reversed(texts), reversed(said), strict=True):
        assert_well_formed(first)
        again = speech.render_user(text, voice)
        np.testing.assert_array_equal(first.wave, again.wave)
        assert first.words == again.words
        assert [w for w, _, _ in first.words] == [w for w, _ in alignment.tokens(text)]


def test_splits_share_no_variant():
    variants = [{variant for _, variant in voices.voice_pool(split)} for split in SPLITS]
    assert sum(map(len, variants)) == len(set().union(*variants))
    assert [len(v) >= n for v, n in zip(variants, (40, 8, 8), strict=True)] == [True] * 3
    for split in SPLITS:
        assert {accent for accent, _ in voices.voice_pool(split)} == set(voices.ACCENTS)


def test_every_variant_of_the_pools_speaks():
    for split in SPLITS:
        every = {variant for _, variant in voices.voice_pool(split)}
        for variant in sorted(every - set(timbres.names()[20:])):
            assert speech.render_user("red", UserVoice(variant=variant)).duration_s > 0.08


def test_voice_fields_are_heard():
    plain = UserVoice()
    say = lambda **change: speech.render_user(PHRASES[0], dataclasses.replace(plain, **change))  # noqa: E731
    spectrum = lambda u: np.abs(np.fft.rfft(u.wave)) ** 2  # noqa: E731
    assert say(rate=220).duration_s < 0.85 * say(rate=140).duration_s
    narrow = spectrum(say(band_hz=(300.0, 3000.0)))
    assert narrow[len(narrow) // 2 :].sum() < 1e-3 * narrow.sum()
    ratio = np.std(say(level_db=-20.0).wave) / np.std(say(level_db=-32.0).wave)
    assert 20 * np.log10(ratio) == pytest.approx(12, abs=0.1)
    # The warp moves formants but hardly the tempo.
    assert say(warp=1.1).duration_s == pytest.approx(plain_s := say().duration_s, rel=0.1), plain_s
    centroid = lambda u: np.average(np.arange(len(spectrum(u))) / u.duration_s, weights=spectrum(u))  # noqa: E731
    assert centroid(say(warp=1.13)) > 1.05 * centroid(say(warp=0.9))


def test_the_model_says_the_same_from_engine_disk_and_memory(engine, tmp_path, monkeypatch):
    first = Speech(tmp_path).model("stop now")
    assert_well_formed(first)
    assert [w for w, _, _ in first.words] == ["stop", "now"]
    stored = list(tmp_path.rglob("*.npz"))
    assert len(stored) == 1 and not list(tmp_path.rglob("*.part"))
    reader = pickle.loads(pickle.dumps(Speech(tmp_path)))
    with monkeypatch.context() as patch:
        patch.setattr(speech.model_voice, "synthesise", None)
        np.testing.assert_array_equal(first.wave, reader.model("stop now").wave)
        assert reader.model("stop now").words == first.words
    stored[0].write_bytes(stored[0].read_bytes()[:100])
    np.testing.assert_array_equal(first.wave, Speech(tmp_path).model("stop now").wave)
    with pytest.raises(ValueError, match="read-only"):
        first.wave[0] = 1.0
    active = alignment.loudness(first.wave)
    level = 20 * np.log10(np.sqrt(np.mean(active[active > 0.1 * active.max()] ** 2)))
    assert level == pytest.approx(speech.MODEL_LEVEL_DB, abs=0.2)


def test_the_models_voice_does_not_tell_what_it_will_say(engine):
    """Where phrases begin alike, their sound is alike until the micro-turn whose text parts them:
    else the model could read its answer off its own voice."""
    following: dict[str, dict[str, str]] = {}
    for phrase in skills.model_texts(skills.SKILLS):
        words = phrase.split()
        for n in range(1, len(words)):
            following.setdefault(" ".join(words[:n]), {})[words[n]] = phrase
    parting = {prefix: list(p.values())[:2] for prefix, p in following.items() if len(p) > 1}
    assert "the answer is" in parting
    for prefix, pair in parting.items():
        a, b = map(engine.model, pair)
        n = len(prefix.split())
        parted = min(a.words[n][1], b.words[n][1])
        if parted >= 0.2:
            same = int((parted - 0.05) * SAMPLE_RATE)
            np.testing.assert_array_equal(a.wave[:same], b.wave[:same], err_msg=prefix)


def test_alignment_finds_words_of_other_voices():
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(12):
        voice = voices.sample_voice(rng, "eval")
        said = speech.render_user("put the red ball on the table and count to seven", voice)
        noisy = said.wave + rng.normal(0, 0.003, len(said.wave)).astype(np.float32)
        references = [speech.render_user(said.text, UserVoice(variant=v)) for v in ("m3", "f2")]
        found = alignment.align(noisy, [(r.wave, r.words) for r in references])
        errors += [abs(a[1] - b[1]) for a, b in zip(found, said.words, strict=True)]
    assert np.median(errors) < 0.03 and np.quantile(errors, 0.95) < 0.12


@pytest.mark.parametrize("text", ["", "  ", "...", "?! -"])
def test_nothing_to_say_is_an_error(engine, text):
    with pytest.raises(ValueError, match="at least one word"):
        engine.model(text)
    with pytest.raises(ValueError, match="at least one word"):
        engine.user(text, UserVoice())


def test_a_bank_replaces_user_voices_only(bank_dir, engine):
    bank = VoiceBank(bank_dir)
    banked = Speech(engine.cache_dir.parent, bank=bank)
    assert bank.voices == ("ann", "bob")
    voice = dataclasses.replace(banked.sample_voice(np.random.default_rng(0), "eval"), bank="ann")
    said = banked.user(PHRASES[0], voice)
    assert_well_formed(said)
    true = speech.render_user(PHRASES[0], UserVoice(variant="f4"))
    errors = [abs(a[1] - b[1]) for a, b in zip(said.words, true.words, strict=True)]
    assert np.median(errors) < 0.06
    assert said.duration_s == pytest.approx(true.duration_s, abs=0.04)
    np.testing.assert_array_equal(banked.model("stop").wave, engine.model("stop").wave)
    with pytest.raises(ValueError, match="sample_voice"):
        banked.user(PHRASES[0], UserVoice())
    with pytest.raises(ValueError, match="sample_voice"):
        engine.user(PHRASES[0], voice)


def _noise(db: float):
    return lambda wave, rng: wave + 10 ** (db / 20) * rng.standard_normal(len(wave))


def _hum(wave, rng):
    return wave + 0.02 * np.sin(2 * np.pi * 50 * np.arange(len(wave)) / SAMPLE_RATE)


def _clicks(wave, rng):
    wave[100:132] = wave[-132:-100] = 0.5
    return wave


@pytest.mark.parametrize(
    "spoil",
    [
        _noise(-46), _noise(-36), _hum, _clicks, lambda wave, rng: wave + 0.02,
        lambda wave, rng: wave * 0.004,
    ],
    ids=["noise", "loud noise", "hum", "clicks", "offset", "quiet"],
)  # fmt: skip
def test_a_recording_is_trimmed_to_its_words(tmp_path, spoil):
    rng = np.random.default_rng(3)
    texts = ("put the red ball on the table", "stop")
    bank_at = tmp_path / "bank" / "ann"
    bank_at.mkdir(parents=True)
    for text in texts:
        said = speech.render_user(text, UserVoice(variant="f4")).wave
        wave = np.pad(0.5 * said / np.abs(said).max(), (9600, 11200))
        soundfile.write(bank_at / f"{phrase_key(text)}.wav", spoil(wave, rng), SAMPLE_RATE)
        found = VoiceBank(tmp_path / "bank").load("ann", text)
        assert len(found) == pytest.approx(len(said), abs=0.15 * SAMPLE_RATE)
        assert np.abs(found).max() == pytest.approx(0.5) and abs(found.mean()) < 1e-3


def test_channels_that_undo_each_other_are_heard(bank_dir):
    bank = VoiceBank(bank_dir)
    path = bank.path("ann", PHRASES[0])
    wave, rate = soundfile.read(path)
    soundfile.write(path, np.stack([wave, -wave], axis=1), rate)
    assert len(bank.load("ann", PHRASES[0])) > SAMPLE_RATE // 2


def test_uneven_words_have_their_own_tempo_and_true_times():
    text = "put the red ball on the table and count to seven"
    voice = UserVoice(variant="f4")
    even = speech.render_user(text, voice)
    ratios = []
    for spread in (0.1, 0.3):
        other = dataclasses.replace(voice, uneven=spread)
        said = speech.render_user(text, other)
        assert [w for w, _, _ in said.words] == [w for w, _, _ in even.words]
        assert_well_formed(said)
        np.testing.assert_array_equal(said.wave, speech.render_user(text, other).wave)
        starts, before = (np.array([s for _, s, _ in u.words]) for u in (said, even))
        ratios.append(np.std(np.log(np.diff(starts) / np.diff(before))))
        # Its own times against those that the alignment with even voices finds.
        found = alignment.align(said.wave, [(even.wave, even.words)])
        late = [abs(a[1] - b[1]) for a, b in zip(found, said.words, strict=True)]
        assert np.median(late) < 0.03
    assert ratios[0] < ratios[1] and ratios[1] > 0.15


def test_voices_of_evaluation_are_what_they_were():
    drawn = {split: voices.sample_voice(np.random.default_rng(4), split) for split in SPLITS}
    assert drawn["train"].uneven > 0 == drawn["dev"].uneven == drawn["eval"].uneven
    assert dataclasses.replace(drawn["dev"], uneven=0.3).seed == drawn["dev"].seed


def test_a_bank_names_what_it_lacks(bank_dir):
    bank = VoiceBank(bank_dir)
    assert bank.missing(PHRASES[:2]) == {}
    assert bank.missing([*PHRASES, "stop", "more"]) == {"ann": ["more"], "bob": ["stop", "more"]}
    with pytest.raises(FileNotFoundError, match="bob.*'stop'.*wav"):
        bank.load("bob", "stop")
    with pytest.raises(ValueError, match="must be a folder"):
        VoiceBank(bank_dir / "nowhere")
    (bank_dir / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no voice"):
        VoiceBank(bank_dir / "empty")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:30]), "no readable wav"),
        (lambda p: p.write_bytes(b"not audio at all"), "no readable wav"),
        (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "cut short"),
        (lambda p: soundfile.write(p, np.zeros(8000), 16000), "silent"),
        (lambda p: soundfile.write(p, np.zeros(0), 16000), "silent"),
        (lambda p: soundfile.write(p, np.full(800, np.nan), 16000, "FLOAT"), "no numbers"),
    ],
)
def test_a_damaged_recording_is_named(bank_dir, damage, message):
    bank = VoiceBank(bank_dir)
    path = bank.path("ann", PHRASES[1])
    damage(path)
    with pytest.raises(DamagedRecording, match=message) as caught:
        bank.load("ann", PHRASES[1])
    assert str(path) in str(caught.value) and caught.value.path == path


def test_pools_of_rooms_and_noises_are_disjoint_and_stable():
    pools = {split: rooms.pool_hashes(split) for split in SPLITS}
    assert [len(p) for p in pools.values()] == [rooms.ROOMS + len(rooms.NOISES)] * 3
    assert len(frozenset().union(*pools.values())) == sum(map(len, pools.values()))
    loop = rooms.noise_loop("dev", len(rooms.NOISES) - 1).copy()
    rooms.noise_loop.cache_clear()
    np.testing.assert_array_equal(loop, rooms.noise_loop("dev", len(rooms.NOISES) - 1))


@given(seed=st.integers(0, 2**32), count=st.integers(0, 60000), quiet=st.booleans())
@settings(max_examples=40, deadline=None)
def test_augmentation_keeps_length_and_onset(seed, count, quiet):
    rng = np.random.default_rng(seed)
    wave = np.zeros(count, np.float32)
    wave[count // 2 :] = 0 if quiet else rng.normal(0, 0.1, count - count // 2)
    draw = lambda **switches: rooms.augment(wave, np.random.default_rng(seed), "train", **switches)  # noqa: E731
    heard = draw()
    np.testing.assert_array_equal(heard, draw())
    assert heard.shape == wave.shape and heard.dtype == np.float32
    assert np.isfinite(heard).all() and np.abs(heard).max(initial=0) <= 0.991
    dry = draw(use_noise=False)
    assert np.abs(dry[: count // 2]).max(initial=0) < 1e-6


def test_a_room_is_a_convolution():
    rng = np.random.default_rng(0)
    wave = rng.normal(size=50000).astype(np.float32)
    wave[3000:33000] = 0
    response = rooms.room("eval", 3)
    expected = np.convolve(wave, response)[: len(wave)]
    np.testing.assert_allclose(rooms._reverberate(wave, response), expected, atol=1e-4)


@pytest.mark.parametrize(
    "call", [rooms.pool_hashes, voices.voice_pool, lambda s: rooms.noise_loop(s, 0)]
)
def test_an_unknown_split_is_named(call):
    with pytest.raises(ValueError, match="no split 'test'; there are train, dev, eval"):
        call("test")
