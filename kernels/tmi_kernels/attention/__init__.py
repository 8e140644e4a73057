"""attention: grouped queries over ragged sessions, with a relative bias, in training rows and over
a cache.

    o[i] = sum_j softmax_j(q[i] . k[j] + rel[i, extent - 1 - (i - j)]) v[j]   over what i sees

Query i sees position j of its own session if j <= i and, by the layer's span, i - j < window, or j
lies in the `blocks` blocks of kv_block positions that end with its own. The bias is 0 beyond the
extent. What goes by micro-turn distance rides in q and k; scales (log scaling too) in q and rel.

Letters: B rows or slots, H query heads, K key heads, S positions of a row, N of a chunk, T of a
cache, E width of a key, d of a value.
"""

from __future__ import annotations

import typing

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tmi_kernels.attention import reference

IMPLEMENTATIONS = ("reference", "pallas_tpu", "pallas_tpu_interpret")


class Span(typing.Protocol):
    """What a layer looks back on: `window` positions, or `blocks` blocks if that is not 0; sums
    begin anew every `kv_block` positions of a session. Hashable."""

    @property
    def window(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def kv_block(self) -> int: ...


def attention(
    q: Float[Array, "B H S E"],
    k: Float[Array, "B K S E"],
    v: Float[Array, "B K S d"],
    rel: Float[Array, "B H S extent"] | None,
    position: Int[Array, "B S"],
    segment: Int[Array, "B S"],
    span: Span,
    *,
    implementation: str = "reference",
) -> Float[Array, "B H S d"]:
    """Training: packed rows, of the dtype of v; differentiable by q, k, v and rel.

    q, k, v are all float32 or all bfloat16, rel is either; sums are f32. segment: 0 is padding,
    whose output is 0. position: counted from a session's beginning, which lies on a multiple of
    kv_block in the row, one more at each place. (Values are not checked: they are known on the
    device only.) What is not finite may reach the other sessions of its row, and no other row.

    implementation: "reference" (jnp, every platform), "pallas_tpu" (TPUs; memory for no scores),
    "pallas_tpu_interpret" (the same kernel step by step on any platform, for tests). Raises
    ValueError if an argument cannot work, and NotImplementedError, when the program is compiled, if
    the implementation does not run there.
    """
    _check_products(q, k, v, rel)
    _check_span(span)
    b, s = q.shape[0], q.shape[2]
    for name, x in (("position", position), ("segment", segment)):
        _require(x.shape == (b, s) and x.dtype == jnp.int32, name, x, f"int32 [B={b}, S={s}]")
    _require(s % span.kv_block == 0, "q", q, f"S in whole blocks of kv_block={span.kv_block}")
    if implementation == "reference":
        return reference.attention(q, k, v, rel, position, segment, span)
    _check_implementation(implementation)
    # Imported by those who want it: Pallas takes long to import.
    from tmi_kernels.attention import pallas_tpu

    interpret = implementation == "pallas_tpu_interpret"
    return pallas_tpu.attention(q, k, v, rel, position, segment, span, interpret=interpret)


def attention_cached(
    q: Float[Array, "B H N E"],
    k: Float[Array, "B K N E"],
    v: Float[Array, "B K N d"],
    rel: Float[Array, "B H N extent"] | None,
    keys: Float[Array, "B K T E"],
    values: Float[Array, "B K T d"],
    length: Int[Array, " B"],
    count: Int[Array, " B"],
    span: Span,
    *,
    implementation: str = "reference",
) -> tuple[Float[Array, "B H N d"], Float[Array, "B K T E"], Float[Array, "B K T d"]]:
    """Decoding: `count` [B] of N new positions of each slot are written behind the `length` [B]
    that it has, then attend. Returns their output, of the dtype of v, and the caches.

    A cache is a ring of whole blocks of kv_block positions, in which position p of a slot lies at
    p % T. It holds what the slot's positions may see, a block at least, and the chunk: T is at
    least the span's reach (window or kv_block - 1, or blocks * kv_block - 1) + N. Donate it, laid
    out row-major (jax.experimental.layout), or XLA may copy it for the kernel where its width is
    not a multiple of 128. Rows beyond the count write nothing and come out 0. What is not finite is
    written as 0; what lies beyond a slot's length is never read. count is within 0..N and length 0
    or more (values are not checked).

    q, k, v are as in `attention`, and so are the implementations and what is raised; the caches are
    of their dtype, and ValueError is raised for one too small.
    """
    _check_products(q, k, v, rel)
    _check_span(span)
    b, n, block = q.shape[0], q.shape[2], span.kv_block
    # A block at least: a chunk that begins at a block's end touches one more than it fills.
    least = (span.blocks * block if span.blocks else max(span.window, block)) - 1 + n
    ring = f"T the same for both, a multiple of kv_block={block} and at least {least}: reach + N"
    for name, x, new in (("keys", keys, k), ("values", values, v)):
        (heads, _, width), size = new.shape[1:], keys.shape[2:3]
        ok = x.ndim == 4 and x.dtype == new.dtype and x.shape == (b, heads, *size, width)
        ok = ok and x.shape[2] % block == 0 and x.shape[2] >= least
        _require(ok, name, x, f"{new.dtype} [{b}, {heads}, T, {width}], {ring}")
    for name, x in (("length", length), ("count", count)):
        _require(x.shape == (b,) and x.dtype == jnp.int32, name, x, f"int32 [B={b}]")
    if implementation == "reference":
        return reference.attention_cached(q, k, v, rel, keys, values, length, count, span)
    _check_implementation(implementation)
    from tmi_kernels.attention import pallas_tpu_cache

    return pallas_tpu_cache.attention_cached(
        q, k, v, rel, keys, values, length, count, span,
        interpret=implementation == "pallas_tpu_interpret",
    )  # fmt: skip


def _check_implementation(name: str) -> None:
    if name not in IMPLEMENTATIONS:
        accepted = ", ".join(map(repr, IMPLEMENTATIONS))
        raise ValueError(f"attention: implementation={name!r}; accepted: {accepted}")


def _require(ok: bool, name: str, array, accepted: str) -> None:
    if not ok:
        raise ValueError(
            f"attention: {name} is {array.dtype}{list(array.shape)}; accepted: {accepted}"
        )


def _check_products(q, k, v, rel) -> None:
    kinds = (jnp.float32, jnp.bfloat16)
    ok = q.ndim == 4 and 0 not in q.shape and q.dtype in kinds
    _require(ok, "q", q, "float32 or bfloat16 [B, H, S, E], none of them 0")
    b, h, s, e = q.shape
    ok = k.ndim == 4 and 0 not in k.shape and k.dtype == q.dtype and k.shape[::3] == (b, e)
    ok = ok and k.shape[2] == s and h % k.shape[1] == 0
    _require(ok, "k", k, f"{q.dtype} [{b}, K, {s}, {e}], as q, K a divisor of H={h}")
    ok = v.ndim == 4 and v.shape[3:] != (0,) and v.shape[:3] == k.shape[:3] and v.dtype == q.dtype
    _require(ok, "v", v, f"{q.dtype} {[*k.shape[:3]]} and a width, as k")
    if rel is not None:
        ok = rel.ndim == 4 and rel.shape[3:] != (0,) and rel.shape[:3] == (b, h, s)
        ok = ok and rel.dtype in kinds
        _require(ok, "rel", rel, f"None, or float32 or bfloat16 [{b}, {h}, {s}, extent]")


def _check_span(span: Span) -> None:
    block, least = span.kv_block, 16
    if block < least or block % least or span.blocks < 0 or (not span.blocks and span.window < 1):
        raise ValueError(
            f"attention: span has window={span.window}, blocks={span.blocks}, kv_block={block}; "
            f"accepted: kv_block a multiple of {least}, blocks from 0, window from 1 if blocks is 0"
        )
