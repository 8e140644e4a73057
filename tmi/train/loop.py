"""Training from the first line to the last: read it down the page."""

from __future__ import annotations

import functools
import math
import signal
import sys
import threading
import time

import jax
from clu import parameter_overview
from jax.sharding import Mesh
from jaxtyping import Array

from tmi import compiled, machine, numerics, paths, sharding
from tmi.config import Config, ConfigError, differing_fields, from_config_dict
from tmi.data import records
from tmi.data.pipeline import dev_batches, merge_states, train_batches
from tmi.interop import origin
from tmi.mesh import on
from tmi.paths import PathLike
from tmi.train import checkpoint, hosts, initial, provenance
from tmi.train.alignment import Alignment
from tmi.train.checkpoint import CheckpointError, Checkpoints
from tmi.train.metrics import DevAverages, TrainingDiverged, Window, Writer
from tmi.train.step import TrainState, averaged, eval_step, init_state, train_step


def train(config: Config, workdir: PathLike, init_from: str | None = None) -> dict:
    """Trains `config` in `workdir`, or goes on if a checkpoint is there.

    Args:
      init_from: what a fresh training begins with: the averaged weights of a workdir or export, or
        a published checkpoint (tmi/train/initial.py).

    Returns:
      {"step", "stopped" (by SIGTERM or SIGINT), "dev" (last dev metrics), "best_loss"}.

    Raises:
      ConfigError: the checkpoint in `workdir` has another config (the fields are named).
      CorpusError: a corpus cannot be read.
      CheckpointError: saving or reading failed; earlier checkpoints stay.
      TrainingDiverged: a loss is NaN or infinite; the last checkpoint is from before.
      HostLost: another process of this training is gone.
    """
    workdir = paths.at(workdir)
    c = config.train

    # -- a checkpoint? ----------------------------------------------------------------------------
    checkpoints = Checkpoints(workdir, c.keep)
    saved = checkpoints.info()
    if saved is not None:
        _check_resumable(saved, config, workdir)
    alone, leads = jax.process_count() == 1, jax.process_index() == 0
    _write_config(workdir, config)

    # -- devices, data ----------------------------------------------------------------------------
    mesh = sharding.make_mesh(config)
    rows, size = sharding.host_rows(config, mesh), config.data.batch_size
    batches = train_batches(config, rows=rows)
    placement = sharding.batch_shardings(config, mesh)
    evaluate = make_evaluator(config, mesh) if c.eval_every else None
    alignment = Alignment(config) if c.replay_every else None

    # -- state ------------------------------------------------------------------------------------
    shardings = state_shardings(config, mesh)
    legs, start = [], 0
    if saved is not None:
        state = checkpoints.restore(_abstract(config, shardings))
        batches.set_state(saved["data"])
        legs, start = saved["legs"], saved["step"]
    else:
        checkpoints.forget_best()  # of a run that ended before it had saved: not of these weights
    if saved is None and init_from is not None:
        state, legs = initial.begin(config, init_from, shardings)
        if leads:
            origin.hand_on(init_from, workdir)
    elif saved is None:
        state = compiled.once(functools.partial(init_state, config), out_shardings=shardings)(
            jax.random.key(c.seed)
        )

    # -- the step, compiled once ------------------------------------------------------------------
    step_fn = compiled_step(config, mesh)

    # -- reports ----------------------------------------------------------------------------------
    ceiling = machine.matmul_ceiling() * math.prod(c.mesh)
    window = Window(config, ceiling)
    writer = Writer(workdir, start, c.steps, quiet=not leads)
    leg = provenance.new_leg(batches.corpus.hash, c.seed, start)
    began, dev, best = time.perf_counter(), (saved or {}).get("dev", {}), checkpoints.best_loss()
    say = writer.say
    count = parameter_overview.count_parameters(state.params)  # pyright: ignore[reportArgumentType]
    say(f"{config.name}: {count / 1e6:.2f}M parameters, matmul ceiling {ceiling / 1e9:.0f} GFLOP/s")
    if saved is not None:
        ignored = f"; --init_from={init_from} is not read" if init_from else ""
        say(f"resumes from step {start} in {workdir}{ignored}")
    if not alone:
        say(f"{jax.process_count()} hosts; if one is silent for {hosts.LOST_S} s, all end")

    def info(step: int) -> dict:
        now = {"steps": step - start, "wall_s": round(time.perf_counter() - began, 1)}
        data = merge_states(hosts.gather(batches.get_state()))
        return checkpoint.make_info(config, step, data, [*legs, leg | now], dev)

    def measure(step: int) -> None:
        nonlocal dev, best
        if evaluate is None:
            return
        dev = evaluate(averaged(state))
        writer.write(step, "dev", dev)
        better = dev["loss"] < best
        if better:
            best = dev["loss"]
            checkpoints.save_best(state, info(step))
        shown = ", ".join(f"{k} {v:.4f}" for k, v in dev.items())
        say(f"step {step} dev: {shown}{' (best)' if better else ''}")

    def replay(step: int) -> None:
        assert alignment is not None
        found = alignment.measure(step, state.params)
        writer.write(step, "replay", found)
        say(
            f"step {step} replay: log-probability gap {found['logprob_gap']:.3g} over "
            f"{found['tokens']:.0f} tokens of {found['microturns']:.0f} live micro-turns, "
            f"{found['differing']:.0f} numbers differ"
        )

    stop, votes, agreed = StopRequest(), hosts.StopVote(mesh), False
    pending: tuple[int, dict[str, Array], Array | None] | None = None
    step = start

    def settle() -> None:
        """Waits for the step under way and looks at its loss."""
        nonlocal pending, agreed
        if pending is not None:
            done, values, vote = pending
            pending = None
            writer.progress(done, window.add_result(done, jax.device_get(values)))
            agreed = vote is not None and bool(vote)

    try:
        # The weights that a leg begins with are its first best: it is kept only if it improves.
        if evaluate and start == 0 and init_from is not None and saved is None:
            measure(0)
            window.restart()

        # -- the loop -----------------------------------------------------------------------------
        while step < c.steps and not (stop if alone else agreed):
            waited = batches.wait_s
            batch = next(batches)
            window.add_batch(batch, batches.wait_s - waited, size / len(rows))
            state, values = step_fn(state, sharding.put_batch(batch, placement, rows, size))
            vote = None if alone else votes.cast(bool(stop))
            settle()  # the step before: this one is computed meanwhile
            step += 1
            pending = (step, values, vote)
            if step == start + 1:
                settle()
                say(f"first step (with compilation) after {time.perf_counter() - began:.0f} s")
                window.restart()
                writer.begin(step)

            last = step == c.steps
            if last or step % c.log_every == 0:
                settle()
                values = window.report(step)
                writer.write(step, "train", values)
                writer.report(step, values)
            if evaluate and (last or step % c.eval_every == 0):
                settle()
                with window.pause():
                    measure(step)
            if alignment and (last or step % c.replay_every == 0):
                settle()
                with window.pause():
                    replay(step)
            if last or (c.save_every and step % c.save_every == 0):
                settle()
                with window.pause():
                    checkpoints.save(state, info(step))
                    writer.publish()

        # -- the end ------------------------------------------------------------------------------
        settle()
        if step < c.steps:
            checkpoints.save(state, info(step))
            why = stop.name or "another host was told to stop"
            say(f"{why}: saved step {step} in {workdir}; the same command goes on from there")
        checkpoints.wait()
        if batches.skipped.reasons:
            say(f"{len(batches.skipped)} records or shards could not be read and were skipped")
    except TrainingDiverged as e:
        raise TrainingDiverged(f"{e}. {_what_stays(checkpoints)}") from e
    except OSError as e:
        raise CheckpointError(f"after step {step}: {e}. {_what_stays(checkpoints)}") from e
    except (jax.errors.JaxRuntimeError, ValueError, CheckpointError) as e:
        if not hosts.is_loss(e):
            raise
        checkpoints.abandon()  # nothing that waits for the others is called from here on
        steps = checkpoints.steps()
        stays = f"goes on from step {steps[-1]}" if steps else "begins anew"
        raise hosts.HostLost(
            f"after step {step} another host was lost ({str(e).splitlines()[0]}); on all hosts the "
            f"same command {stays} in {workdir}"
        ) from e
    finally:
        stop.restore()
        batches.close()
        writer.close()
        checkpoints.close()
    return {"step": step, "stopped": step < c.steps, "dev": dev, "best_loss": best}


def _what_stays(checkpoints: Checkpoints) -> str:
    try:
        checkpoints.wait()
    except CheckpointError as e:
        return str(e)
    steps = checkpoints.steps()
    if not steps:
        return "No checkpoint was saved before it"
    return f"The last good checkpoint is step {steps[-1]} in {checkpoints.path / 'checkpoints'}"


def _write_config(workdir: PathLike, config: Config) -> None:
    """Raises ConfigError on every host if one does not see what the first writes."""
    if jax.process_index() == 0:
        checkpoint.write_config(workdir, config)
    hosts.gather("written")
    seen = hosts.gather((paths.at(workdir) / checkpoint.CONFIG_FILE).exists())
    if not all(seen):
        raise ConfigError(
            f"--workdir={workdir} is not seen by host {seen.index(False)} of {len(seen)}: a "
            "directory that all share is accepted, or a bucket (gs://...)"
        )


def _check_resumable(saved: dict, config: Config, workdir: PathLike) -> None:
    other = differing_fields(from_config_dict(saved["config"]), config)
    if other:
        raise ConfigError(
            f"{workdir} holds step {saved['step']} of another config; differing (saved -> given): "
            f"{'; '.join(other)}. Give the saved values, another --workdir, or begin afresh from "
            "its weights with --init_from"
        )


# -- the step and its state ----------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def compiled_step(config: Config, mesh: Mesh):
    """train_step, jitted for a mesh: (state, batch) -> (state, metrics). The state is donated."""
    shardings = state_shardings(config, mesh)
    return numerics.jit(
        config.model.numerics,
        on(mesh, functools.partial(train_step, config)),
        in_shardings=(shardings, sharding.batch_shardings(config, mesh)),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def state_shardings(config: Config, mesh: Mesh) -> TrainState:
    """Where every array of the training state lies."""
    state = jax.eval_shape(functools.partial(init_state, config), jax.random.key(0))
    return sharding.state_shardings(config, state, mesh)


def _abstract(config: Config, shardings: TrainState) -> TrainState:
    state = jax.eval_shape(functools.partial(init_state, config), jax.random.key(0))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
    )


# -- evaluation ----------------------------------------------------------------------------------


def make_evaluator(config: Config, mesh: Mesh):
    """A function from averaged parameters to dev metrics: by stream, by skill ('skill/<name>').

    Raises CorpusError if data.dev_corpus cannot be read.
    """
    corpus = records.open_corpus(config.data.dev_corpus, "dev")
    held = dev_batches(config, config.train.eval_batches, corpus=corpus)
    if not held:
        raise records.CorpusError(f"{corpus.path} gives no batch: config.train.eval_batches is 0")
    rows = sharding.batch_shardings(config, mesh)
    size = config.data.batch_size
    run = compiled_eval(config, mesh, len(corpus.skills))

    def evaluate(params: dict[str, Array]) -> dict[str, float]:
        averages = DevAverages(corpus.skills)
        for i, batch in enumerate(held):
            # The same noise each time: dev losses of two steps can be compared.
            key = jax.random.fold_in(jax.random.key(0), i)
            placed = sharding.put_batch(batch, rows, range(size), size)
            averages.add(*jax.device_get(run(params, placed, key)))
        return averages.result()

    return evaluate


@functools.lru_cache(maxsize=2)
def compiled_eval(config: Config, mesh: Mesh, num_skills: int):
    """eval_step, jitted for a mesh: (params, batch, key) -> (metrics, weights, sums by skill)."""
    rows = sharding.batch_shardings(config, mesh)
    return numerics.jit(
        config.model.numerics,
        on(mesh, functools.partial(eval_step, config, num_skills)),
        in_shardings=(sharding.param_shardings(config, mesh), rows, None),
        out_shardings=sharding.replicated(mesh),
    )


class StopRequest:
    """True once SIGTERM or SIGINT has come: the loop then ends after its step."""

    def __init__(self):
        self.name = ""
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, _frame) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice
        self.name = signal.Signals(number).name
        print(f"{self.name}: stops after this step", file=sys.stderr, flush=True)

    def __bool__(self) -> bool:
        return bool(self.name)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
