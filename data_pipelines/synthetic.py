"""Renders a corpus of duplex sessions with exact ground truth.

    python -m data_pipelines.synthetic --out=build/corpus/train --split=train --sessions=2000
    python -m data_pipelines.synthetic --list_phrases --split=eval    # what users may say

Records depend on seed, split and index alone, whatever the number of workers. See README.md beside.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from data_pipelines import flite, rooms, skills, splits, video, voices
from data_pipelines.phrases import SHARED, SIDE_TALK
from data_pipelines.session import Conflict, Session
from data_pipelines.speech import Speech
from data_pipelines.voice_bank import VoiceBank
from tmi.config import Config, MicroturnConfig, SpeechConfig
from tmi.data.records import SessionRecord, ShardWriter
from tmi.microturn import layout

GENERATOR_VERSION = 2  # to be raised when a seed gives other sessions: see `outdated`
SHARD_SIZE = 64  # sessions at most
LONG_SHARE = 0.45  # of sessions get lengths from the upper end, so that late triggers are not rare
LONG_S = 46.0
SIDE_TALK_SHARE = 0.25  # of gaps hold side talk or a voice in the background


@dataclasses.dataclass(frozen=True)
class Job:
    """What sessions are made from; picklable."""

    out: str
    split: str
    seed: int
    sessions: int
    skills: str = ""
    min_seconds: float = 12.0
    max_seconds: float = 58.0
    microturn_seconds: float = 0.2
    voice_bank: str = ""
    cache: str = ""
    clean: bool = False
    flite_share: float = 0.0  # of the users' voices

    @property
    def shards(self) -> list[tuple[int, range]]:
        """(number, indices of sessions) of each shard; the same for any number of workers."""
        size = max(1, min(SHARD_SIZE, math.ceil(self.sessions / 8)))
        starts = range(0, self.sessions, size)
        return [(i, range(a, min(a + size, self.sessions))) for i, a in enumerate(starts)]


class CannotRender(ValueError):
    """A session that cannot be made of what there is; the message says why."""


class Generator:
    """Makes the sessions of a job; one a process."""

    def __init__(self, job: Job):
        self.job = job
        bank = VoiceBank(job.voice_bank) if job.voice_bank else None
        self.speech = Speech(job.cache or None, bank=bank, flite_share=job.flite_share)
        self.skills, self.mixture = skills.choose(job.skills), skills.mixture(job.skills)
        self.lay = layout(clock(job.microturn_seconds))
        self.damaged: dict[str, str] = {}  # files of the bank that were met and left out, and why

    def session(self, index: int) -> tuple[Session, SessionRecord]:
        """Session `index` and its record. Raises CannotRender if no scene fits."""
        job = self.job
        rng = np.random.default_rng([job.seed, splits.SPLITS.index(job.split), index])
        low = job.min_seconds
        if rng.random() < LONG_SHARE:
            low = max(low, min(LONG_S, job.max_seconds - 1.0))
        limit = float(rng.uniform(low, job.max_seconds))
        cast = tuple(self.speech.sample_voice(rng, job.split) for _ in range(2))
        s = Session(rng, job.split, self.lay, self.speech, cast, limit, job.min_seconds)
        compose(s, self.skills, self.mixture)
        for _ in range(20):
            if s.trials:
                break
            self.damaged |= s.damaged
            limit = min(limit + 8.0, max(job.max_seconds, 30.0))  # nothing fitted: more room
            if job.voice_bank:  # a voice may lack what would be said
                cast = tuple(self.speech.sample_voice(rng, job.split) for _ in range(2))
            s = Session(rng, job.split, self.lay, self.speech, cast, limit, job.min_seconds)
            compose(s, self.skills, self.mixture)
        self.damaged |= s.damaged
        if not s.trials:
            raise CannotRender(
                f"session {index}: no scene of {list(self.skills)} fits into {limit:.0f} s, or "
                f"the voice bank lacks what voice {s.voice.name} would have to say "
                f"({len(self.damaged)} of its files are damaged)"
            )
        noise = np.random.default_rng([job.seed, splits.SPLITS.index(job.split), index, 1])
        id = f"{job.split}-{job.seed}-{index:06d}"
        if job.clean:
            return s, s.finish(id, lambda dry: dry)
        return s, s.finish(id, lambda dry: rooms.augment(dry, noise, job.split))


def clock(seconds: float) -> Config:
    """The default config with micro-turns of `seconds`; ConfigError if that cannot work."""
    return Config(microturn=MicroturnConfig(seconds=seconds), speech=SpeechConfig())


def compose(s: Session, modules: dict, mixture: Mapping[str, float] | None = None) -> None:
    """Fills a session with scenes of one to four of the skills, gaps and side talk between them;
    `mixture` has their weights, else each its own."""
    names = list(modules)
    weights = np.array([mixture[n] if mixture else modules[n].WEIGHT for n in names])
    few = min(len(names), s.integer(1, 4))
    cast = s.rng.choice(len(names), few, replace=False, p=weights / weights.sum())
    share = weights[cast] / weights[cast].sum()
    failures = 0
    while s.cursor < s.limit_s - 3.0 and failures < 8:
        name = names[int(s.rng.choice(cast, p=share))]
        try:
            with s.attempt():
                modules[name].scene(s)
                s.skills.append(name)
        except Conflict:
            failures += 1
            s.cursor += 0.25
            continue
        if s.chance(SIDE_TALK_SHARE):
            _side_talk(s)
        s.cursor += s.uniform(2.5, 6.0) if s.chance(0.12) else s.uniform(0.2, 1.8)


def _side_talk(s: Session) -> None:
    """The user turns to somebody, or somebody else is heard: nothing for the model to answer."""
    try:
        with s.attempt():
            clauses = s.clauses(SIDE_TALK)
            at = s.cursor + s.uniform(0.3, 1.0)
            if s.chance(0.5):
                turn = s.say(clauses, at, gain=s.uniform(0.35, 0.6))
            else:
                gain = s.uniform(0.12, 0.35)
                turn = s.say(clauses, at, voice=s.other_voice, gain=gain, to_model=False)
            s.cursor = turn.end + 0.2
    except Conflict:
        pass


# -- processes -----------------------------------------------------------------------------------

_generator: Generator | None = None


def _start(job: Job) -> None:
    global _generator
    _generator = Generator(job)


def _render_shard(task: tuple[range, str]) -> dict:
    """Writes a shard; returns its entry of the manifest under 'shard' and what it used."""
    indices, file = task
    assert _generator is not None
    job, began = _generator.job, time.process_time()
    out = pathlib.Path(job.out)
    writer = ShardWriter(out / file)
    used = collections.Counter()
    sets: dict[str, set[str]] = {n: set() for n in ("combinations", "voices", "carriers", "looks")}
    counts: dict[str, float] = collections.defaultdict(int)
    firsts = []
    for index in indices:
        s, record = _generator.session(index)
        writer.write(record)
        firsts.append(record.skills[0])
        if job.split != "train":
            path = out / "truth" / f"{record.id}.json"
            path.write_text(json.dumps(record.truth))
        used.update(record.skills)
        sets["combinations"].update(s.combinations)
        sets["voices"].update((s.voice.name, s.other_voice.name))
        sets["carriers"].update(splits.text_hash(c) for c in s.carriers)
        sets["looks"].update(s.looks)
        counts["seconds"] += record.duration_s
        counts["model_seconds"] += sum(len(w) for _, w in record.model_audio) / 16_000
        counts["frames"] += len(record.frames)
        for t in record.truth["trials"]:
            counts["trials"] += 1
            for trigger in t.get("triggers", ()):
                counts["triggers"] += 1
                counts["late_triggers"] += trigger["time_s"] > 30.0
    digest = writer.close()
    return {
        # The skills tell who mixes them, on however many hosts, what to read.
        "shard": {"file": file, "sha256": digest, "count": len(indices), "skills": firsts},
        "skills": dict(used),
        "counts": dict(counts),
        "damaged": dict(_generator.damaged),
        "cpu_s": time.process_time() - began,
        **{name: sorted(values) for name, values in sets.items()},
    }


def render(job: Job, workers: int = 1, progress: bool = True) -> dict:
    """Renders the corpus and returns its manifest, which is written last."""
    out = pathlib.Path(job.out)
    (out / "truth").mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("*.array_record"), *out.glob("manifest.json"), *out.glob("truth/*.json")]:
        old.unlink()
    began = time.perf_counter()
    _warm(job, progress)
    shards = job.shards
    name = f"{job.split}-{{:05d}}-of-{len(shards):05d}.array_record"
    tasks = [(indices, name.format(i)) for i, indices in shards]
    results: list[dict] = []
    named: set[str] = set()
    with contextlib.ExitStack() as stack:
        bar = tqdm(total=job.sessions, unit="session", disable=not progress, desc=job.split)
        stack.enter_context(bar)
        if workers <= 1:
            _start(job)
            made = map(_render_shard, tasks)
        else:
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(context.Pool(workers, _start, (job,)))
            made = pool.imap(_render_shard, tasks)
        for result in made:
            results.append(result)
            for path in sorted(set(result["damaged"]) - named):
                tqdm.write(f"skipped: {result['damaged'][path]}", file=sys.stderr)
                named.add(path)
            bar.update(result["shard"]["count"])
    manifest = _manifest(job, results, time.perf_counter() - began)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))
    if job.split == "train":
        (out / "truth").rmdir()
    return manifest


def _warm(job: Job, progress: bool) -> None:
    """Renders the model's phrases into the cache once, before there are several processes."""
    speech = Speech(cache_dir=job.cache or None)
    texts = skills.model_texts(skills.choose(job.skills))
    for text in tqdm(texts, unit="phrase", disable=not progress, desc="the model's voice"):
        speech.model(text)


def _manifest(job: Job, results: Sequence[dict], wall_s: float) -> dict:
    def union(name: str) -> list[str]:
        return sorted(set().union(*(r[name] for r in results)))

    counts, used = collections.Counter(), collections.Counter()
    for r in results:
        counts.update(r["counts"])
        used.update(r["skills"])
    combinations = union("combinations")
    pools = _pools(job)
    texts = skills.user_texts(skills.choose(job.skills), job.split)
    cpu_s = sum(r["cpu_s"] for r in results)
    return {
        "generator_version": GENERATOR_VERSION,
        "job": _what(job),
        "seed": job.seed,
        "split": job.split,
        "sessions": job.sessions,
        "hours": round(counts["seconds"] / 3600, 4),
        "model_speech_hours": round(counts["model_seconds"] / 3600, 4),
        "frames": counts["frames"],
        "trials": counts["trials"],
        "triggers": counts["triggers"],
        "late_triggers": counts["late_triggers"],
        "skills": dict(sorted(used.items())),
        "voices": union("voices"),
        "carriers_used": union("carriers"),
        "looks": union("looks"),
        "combinations": [splits.text_hash(c) for c in combinations],
        "held_out_combinations": sum(splits.held_out(*c.split("/")) for c in combinations),
        "hashes": pools,
        "model_phrases": skills.model_texts(skills.choose(job.skills)),
        # Recordings of the voice bank that were met, could not be used and were done without.
        "damaged_recordings": union("damaged"),
        "missing_recordings": VoiceBank(job.voice_bank).missing(texts) if job.voice_bank else {},
        "shards": [r["shard"] for r in results],
        # Seconds of session a second of processor time, synthesis of the model's voice left out.
        "realtime_factor_per_core": round(counts["seconds"] / max(cpu_s, 1e-9), 1),
        "wall_s": round(wall_s, 1),
    }


def _what(job: Job) -> dict:
    """What decides a job's records: not where they go."""
    return {k: v for k, v in dataclasses.asdict(job).items() if k not in ("out", "cache")}


def _pools(job: Job) -> dict[str, list[str]]:
    hashes = split_hashes(job.split, skills.choose(job.skills))
    return {name: sorted(found) for name, found in hashes.items()}


def outdated(job: Job) -> str:
    """Why the corpus in `job.out` is not what `render(job)` would write now; "" if it is, as far as
    its manifest tells: it is of this generator and job, with the same phrases, voices and looks."""
    out = pathlib.Path(job.out)
    try:
        manifest = json.loads((out / "manifest.json").read_text())
        files = [shard["file"] for shard in manifest["shards"]]
    except (OSError, ValueError, TypeError, KeyError) as e:
        return f"its manifest cannot be read ({e!r})"
    lost = [name for name in files if not (out / name).is_file()]
    if lost:
        return f"{len(lost)} of its {len(files)} shards are gone"
    have, want = dict(manifest.get("job", {})), _what(job)
    have["generator_version"] = manifest.get("generator_version")
    want["generator_version"] = GENERATOR_VERSION
    fields = [k for k in sorted(have | want) if have.get(k) != want.get(k)]
    if fields:
        return ", ".join(f"{k}: {have.get(k)!r} -> {want.get(k)!r}" for k in fields)
    phrases = skills.model_texts(skills.choose(job.skills))
    pools, known = _pools(job) | {"model_phrases": phrases}, manifest.get("hashes", {})
    known |= {"model_phrases": manifest.get("model_phrases")}
    other = [name for name, found in pools.items() if known.get(name) != found]
    return f"another generator made it: {', '.join(other)} differ" if other else ""


def split_hashes(split: str, modules: dict) -> dict[str, set[str]]:
    """Hashes of all that `split` may use: carriers, utterances, voices, looks, rooms and noises."""
    carriers = [c for m in modules.values() for c in m.CARRIERS] + list(SHARED)
    speakers = list(voices.voice_pool(split))
    if split == "train":  # whom --flite_share may bring
        speakers += [(voices.FLITE, name) for name in flite.TRAIN_VOICES]
    return {
        "carriers": {splits.text_hash(text) for c in carriers for text in c.of(split)},
        "utterances": {splits.text_hash(t) for t in skills.user_texts(modules, split)},
        "voices": {splits.text_hash("+".join(v)) for v in speakers},
        "looks": set(video.pool_hashes(split)),
        "rooms_and_noises": set(rooms.pool_hashes(split)),
    }


# -- the command -----------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    about = (__doc__ or "").split("\n")[0]
    p = argparse.ArgumentParser(prog="data_pipelines.synthetic", description=about)
    p.add_argument("--out", default="", help="directory of the corpus; one that is there goes")
    p.add_argument("--split", choices=splits.SPLITS, default="train")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--sessions", type=int, default=64)
    p.add_argument("--workers", type=int, default=1, help="processes")
    p.add_argument(
        "--skills",
        default="",
        help=f"of {','.join(skills.SKILLS)}; all by default. "
        "NAME:W gives one a weight, 'all' adds the others: all,timespeak:6",
    )
    p.add_argument("--min_seconds", type=float, default=12.0)
    p.add_argument("--max_seconds", type=float, default=58.0)
    p.add_argument("--microturn_seconds", type=float, default=0.2, help="the clock of the targets")
    p.add_argument("--voice_bank", default="", help="directory of recorded voices")
    p.add_argument(
        "--flite_share",
        type=float,
        default=0.0,
        help="of the train split's voices, how many are of flite, a second engine (apt install "
        "flite)",
    )
    p.add_argument("--cache", default="", help="for the model's phrases; by default $TMI_CACHE")
    p.add_argument("--clean", action="store_true", help="no rooms and no noise")
    p.add_argument("--list_phrases", action="store_true", help="print what users say and end")
    return p.parse_args(arguments)


def job_of(a: argparse.Namespace) -> Job:
    """The job that the flags ask for."""
    return Job(**{f.name: getattr(a, f.name) for f in dataclasses.fields(Job)})


def check_flite(a: argparse.Namespace) -> None:
    """Raises ValueError where flite's voices may not be heard, ImportError where they are not."""
    if not a.flite_share:
        return
    if not (0 < a.flite_share <= 1 and a.split == "train" and not a.voice_bank):
        raise ValueError(
            f"--flite_share={a.flite_share}: accepted is a share up to 1 of --split=train without "
            "--voice_bank; what other splits hear is never trained on"
        )
    flite.check()


def main(arguments: Sequence[str] | None = None) -> int:
    a = parse(arguments)
    try:
        modules = skills.choose(a.skills)
        clock(a.microturn_seconds)
        check_flite(a)
        bank = VoiceBank(a.voice_bank) if a.voice_bank else None
    except (ValueError, ImportError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    texts = skills.user_texts(modules, a.split)
    if a.list_phrases:
        try:
            print("\n".join(texts), flush=True)
        except BrokenPipeError:  # head has seen enough; what the exit would flush goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if not a.out or a.sessions < 1 or a.seed < 0 or not 8 <= a.min_seconds <= a.max_seconds:
        message = "needed: --out=DIR, --sessions >= 1, --seed >= 0, 8 <= min_seconds <= max_seconds"
        print(f"error: {message}", file=sys.stderr)
        return 2
    if bank is not None:
        report_missing(bank, texts)
    job = job_of(a)
    if (pathlib.Path(a.out) / "manifest.json").is_file() and (other := outdated(job)):
        print(f"replaces the corpus in {a.out}: {other}", file=sys.stderr)
    try:
        m = render(job, a.workers)
    except CannotRender as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(
        f"{m['sessions']} sessions, {m['hours']:.2f} h, {m['trials']} trials in {a.out}; "
        f"{m['realtime_factor_per_core']:.0f} x real time per core"
    )
    if m["damaged_recordings"]:
        print(f"{len(m['damaged_recordings'])} damaged recordings of the voice bank were skipped")
    return 0


def report_missing(bank: VoiceBank, texts: Sequence[str]) -> None:
    """Names on stderr what a voice bank lacks; scenes that would need it are not made."""
    for voice, missing in bank.missing(texts).items():
        if missing:
            print(
                f"voice {voice}: {len(missing)} of {len(texts)} utterances are missing, "
                f"such as {bank.path(voice, missing[0])} ({missing[0]!r})",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
