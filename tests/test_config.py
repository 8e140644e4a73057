"""The schema: what it refuses, and that it says so in the words of the field."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmi import config as lib
from tmi import config_rules as rules
from tmi.config import Config, ConfigError

NUMBERS = {
    k: v for k, v in lib.flatten(Config()).items() if type(v) in (int, float)
}  # fmt: skip


def edited(**fields) -> dict:
    """The defaults as a plain dict with dotted (written __) fields replaced."""
    d = lib.default().to_dict()
    for dotted, value in fields.items():
        *sections, name = dotted.split("__")
        target = d
        for s in sections:
            target = target[s]
        target[name] = value
    return d


def refused(match: str, **fields) -> None:
    with pytest.raises(ConfigError, match=match):
        lib.from_config_dict(edited(**fields))


def test_a_typo_is_told_what_exists():
    refused(r"config\.model\.num_layer does not exist; accepted: .*num_layers", model__num_layer=3)
    refused(r"config\.modle does not exist; accepted: .*model", modle={})
    view = lib.default()
    with pytest.raises((AttributeError, KeyError), match="num_layer"):
        view.model.num_layer = 3


def test_a_wrong_type_is_told_which_is_accepted():
    refused(r"config\.model\.width='wide': a value of type int", model__width="wide")
    refused(r"config\.model\.width=1\.5: a value of type int", model__width=1.5)
    refused(r"config\.train\.steps=True: a value of type int", train__steps=True)
    refused(r"config\.data\.augment=1: a value of type bool", data__augment=1)
    refused(r"config\.train\.mesh=1: a tuple", train__mesh=1)
    refused(r"config\.model=3: a section", model=3)


def test_a_whole_number_is_a_float():
    assert lib.from_config_dict(edited(flow__t_std=1)).flow.t_std == 1.0


@pytest.mark.parametrize(
    "match, fields",
    [
        (r"microturn\.seconds=0\.25 .*dMel positions", {"microturn__seconds": 0.25}),
        (
            r"microturn\.seconds=0\.1 .*speech patches",
            {"microturn__seconds": 0.1, "audio__frames_per_position": 2},
        ),
        (
            r"audio\.hop_s=0\.0333.* whole number of samples",
            {"audio__hop_s": 1 / 30, "audio__frames_per_position": 2},
        ),
        (r"audio\.window_s=0\.01 .*hop_s=0\.05 or more", {"audio__window_s": 0.01}),
        (r"audio\.window_s=0\.10001 .*whole number of samples", {"audio__window_s": 0.10001}),
        (r"audio\.num_levels=1 .*2 to 256", {"audio__num_levels": 1}),
        (
            r"audio\.sample_rate=48000 .*16000",
            {"audio__sample_rate": 48_000, "speech__sample_rate": 48_000},
        ),
        (r"speech\.sample_rate=8000 .*16000", {"speech__sample_rate": 8000, "speech__hop": 100}),
        (r"speech\.window=700 .*multiple of speech\.hop=200", {"speech__window": 700}),
        (r"speech\.window=200 .*at least twice it", {"speech__window": 200}),
        (r"speech\.window=1200 .*at most speech\.n_fft=1024", {"speech__window": 1200}),
        (r"text\.tokenizer='nope' .*'bpe512' or a path", {"text__tokenizer": "nope"}),
        (r"text\.vocab_size=10 .*special", {"text__vocab_size": 10}),
        (r"text\.unpadded_vocab_size=3 .*16 to", {"text__unpadded_vocab_size": 3}),
        (r"model\.time_frequencies=0 .*'token'", {"model__time_frequencies": 0}),
        (r"model\.clock_digits=10 .*to 9", {"model__clock_digits": 10}),
        (r"optimizer\.b1=1\.0 .*less than 1", {"optimizer__b1": 1.0}),
        (r"optimizer\.b2=1\.0 .*less than 1", {"optimizer__b2": 1.0}),
        (r"optimizer\.trainable=\(\) .*one at least", {"optimizer__trainable": ()}),
        (r"optimizer\.trainable=\(3,\) .*'heads'", {"optimizer__trainable": (3,)}),
        (r"train\.seed=4294967296 .*2\*\*32", {"train__seed": 2**32}),
        (
            r"train\.micro_batches=64 .*a divisor of 24: data\.batch_size=768 .*parts of 12",
            {
                "train__micro_batches": 64,
                "data__batch_size": 768,
                "train__mesh": (1, 32, 4, 1, 1),
            },
        ),
        (r"train\.micro_batches=3 .*data\.batch_size=4", {"train__micro_batches": 3}),
        (r"audio\.hop_s=0\.0 .*positive", {"audio__hop_s": 0.0}),
        (r"audio\.frames_per_position=0 .*positive", {"audio__frames_per_position": 0}),
        (r"model\.num_heads=4 .*multiple of model\.num_kv_heads", {"model__num_kv_heads": 3}),
        (r"model\.num_kv_heads=0 .*positive", {"model__num_kv_heads": 0}),
        (r"model\.position_bias='rope' .*'token', 'micro", {"model__position_bias": "rope"}),
        (r"model\.num_experts_per_token=9 .*between 1 and", {"model__num_experts_per_token": 9}),
        (r"model\.window=0 .*positive", {"model__window": 0}),
        (r"model\.sliding_num_heads=3 .*multiple of kv heads", {"model__sliding_num_heads": 3}),
        (r"model\.global_layers=\(6,\) .*layers 0 to 5", {"model__global_layers": (6,)}),
        (r"video\.folds=.*frames multiply to 2", {"video__folds": ((1, 5), (1, 8))}),
        (r"video\.patch=20 .*40: the stem folds", {"video__patch": 20}),
        (r"speech\.enabled=False .*speech_slots=0", {"speech__enabled": False}),
        (r"microturn\.kv_block=8 .*multiple of 16", {"microturn__kv_block": 8}),
        (r"data\.row_length=1000 .*multiple of microturn\.kv_block", {"data__row_length": 1000}),
        (
            r"data\.audio_slots=1 .*at least .*= 2",
            {"data__audio_slots": 1, "audio__frames_per_position": 2},
        ),
        (r"data\.skill_weights=.*pairs", {"data__skill_weights": ("answer",)}),
        (r"data\.skill_weights=.*once", {"data__skill_weights": (("a", 1.0), ("a", 2.0))}),
        (r"train\.mesh=\(1, 1\) .*five sizes", {"train__mesh": (1, 1)}),
        (r"data\.batch_size=4 .*data x fsdp", {"train__mesh": (3, 1, 1, 1, 1)}),
        (r"video\.stem_channels=\(1, 2\) .*three", {"video__stem_channels": (1, 2)}),
        (
            r"model\.dtype='bfloat16' .*'float32' where model\.numerics",
            {"model__numerics": "invariant", "model__dtype": "bfloat16"},
        ),
        (
            r"model\.grouped='ragged_dot' .*'tiles' with",
            {"model__numerics": "invariant", "model__grouped": "ragged_dot"},
        ),
        (r"speech\.fmax=9000\.0 .*half", {"speech__fmax": 9000.0}),
        (r"optimizer\.ema=1\.5 .*between 0 and 1", {"optimizer__ema": 1.5}),
        (r"flow\.t_mean=nan .*finite", {"flow__t_mean": float("nan")}),
    ],
)  # fmt: skip
def test_an_impossible_combination_names_the_field_and_what_is_accepted(match, fields):
    refused(match, **fields)


@given(st.sampled_from(sorted(NUMBERS)), st.sampled_from([0, -1, 7, 100_003, float("inf")]))
@settings(max_examples=300, deadline=None)
def test_any_number_is_accepted_or_refused_by_name(field, value):
    if isinstance(NUMBERS[field], float):
        value = float(value)
    elif value == float("inf"):
        return
    try:
        lib.from_config_dict(edited(**{field.replace(".", "__"): value}))
    except ConfigError as e:
        assert field in str(e)


def test_json_and_the_editable_view_keep_every_field():
    c = Config()
    c = dataclasses.replace(
        c, data=dataclasses.replace(c.data, skill_weights=(("answer", 1.0), ("count", 0.5)))
    )
    assert lib.from_json(lib.to_json(c)) == c
    assert lib.from_config_dict(lib.to_config_dict(c)) == c
    assert set(lib.flatten(c)) == set(lib.flatten(lib.from_json(lib.to_json(c))))


def test_a_config_of_another_format_or_of_none_is_refused():
    text = lib.to_json(Config())
    with pytest.raises(ConfigError, match="format version 2; this code reads version 1"):
        lib.from_json(text.replace('"format_version": 1', '"format_version": 2'))
    for broken in ("", "{", "[]", "{}", "3"):
        with pytest.raises(ConfigError, match="not a saved config"):
            lib.from_json(broken)


def test_differing_fields_names_what_a_resume_may_not_change():
    a = Config()
    b = lib.from_config_dict(edited(model__width=256, train__steps=5))
    assert lib.differing_fields(a, b) == ["model.width: 192 -> 256"]
    assert lib.differing_fields(a, a) == []
    assert len(lib.differing_fields(a, b, ignore=())) == 2
    assert set(lib.flatten(a)) >= lib.RESUMABLE_FIELDS


def test_every_number_that_may_be_zero_or_negative_exists():
    known = set(lib.flatten(Config()))
    assert rules.ANY_SIGN | rules.SHARES | rules.ZERO_ACCEPTED <= known
