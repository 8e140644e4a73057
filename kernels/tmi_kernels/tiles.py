"""The one product that the TPU kernels are made of, so that they agree in every bit.

    total[ROWS, n] += x[ROWS, k] w[n, k]^T

The rows are always `ROWS`, however many are asked for; k and n follow from the size of what is
contracted, the size of what comes out and the type, by `chunk`, and from nothing else. Blocks that
a kernel fetches may hold several of these products: they are done in the order of k, one after
another into f32, so blocks decide what a kernel costs and not one bit of what it computes.

Why a row's bits depend on that row and the weights alone:

* A matrix unit holds a tile of w still and passes rows of x through it: what comes out for a row is
  summed down a column of cells, in the order in which they are wired. Neither the row's place in
  the tile nor what the other rows hold, NaN included, enters.
* Which tile of w follows which is decided when the kernel is compiled, from the shapes of the
  product. They are the same literals whatever the number of rows (tests/kernels/test_dot.py reads
  them from the program), and so is the sum of the chunks.
* f32 operands are split into bf16 parts (`Precision.HIGHEST`), element by element.
* Rows that are there to fill a tile hold anything at all, and are not written back.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

ROWS = 128  # a matrix unit takes as long for one row as for these: it waits for the weights
WHOLE = 1024  # a size that 128 does not divide is taken whole up to here
VMEM_BYTES = 32 * 2**20  # all that a kernel may take


def chunk(size: int, itemsize: int) -> int:
    """How much of a contraction, and how many columns of a result, one product has, of a type of so
    many bytes: 256 (128 in f32) or 128, if that divides `size`; what 128 does not divide is taken
    whole up to `WHOLE`, and beyond that its last part is filled up."""
    widest = 256 if itemsize == 2 else 128
    for n in (widest, 128):
        if size % n == 0:
            return n
    return size if size <= WHOLE else widest


def parts(size: int, most: int) -> int:
    """`size` divided evenly into as few parts of at most `most` as will do: the size of one."""
    count = -(-size // max(1, most))
    return -(-size // count)


def product(a, b, dims: tuple[int, int] = (1, 1)):
    """a and b contracted along `dims` (by default a b^T), accumulated in f32."""
    exact = a.dtype == jnp.float32
    return jax.lax.dot_general(
        a,
        b,
        (((dims[0],), (dims[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=jnp.float32,
    )


def accumulate(total, x, w, k: int, n: int, *, valid: int, transposed: bool = False) -> None:
    """total += x w^T (x w if `transposed`), chunk by chunk.

    References to fast memory: total [ROWS, N] f32, x [ROWS, K], w [N, K] ([K, N]); N is a multiple
    of n. Only the first `valid` of K count: what lies beyond the arrays may hold anything.
    """
    for column in range(0, total.shape[1], n):
        columns = slice(column, column + n)
        t = total[:, columns]
        for start in range(0, valid, k):
            part = slice(start, start + k)
            a = x[:, part]
            b = w[part, columns] if transposed else w[columns, part]
            if valid < start + k:
                a = first(a, valid - start, axis=1)
                b = first(b, valid - start, axis=0 if transposed else 1)
            t += product(a, b, (1, 0 if transposed else 1))
        total[:, columns] = t


def hidden(a, b, dtype):
    """The hidden layer of a gated MLP, of both its halves in f32. In kernels only: exponentials of
    XLA are others."""
    return (jax.nn.silu(a) * b).astype(dtype)


def weigh(share, y):
    """share * y as a number of its own, nothing where the share is zero.

    A product that is added to something may be computed with it and rounded once, in one program
    and not in another; none can be once it has been limited. (So an infinity counts as the largest
    number.) And of an expert that it did not choose a row must not even get a NaN.
    """
    most = float(jnp.finfo(jnp.float32).max)
    return jnp.where(share != 0, jnp.clip(share * y, -most, most), 0.0)


def first(a, count: int, axis: int):
    """`a` with zeros beyond the first `count` along an axis."""
    return masked(a, jax.lax.broadcasted_iota(jnp.int32, a.shape, axis) < count)


def masked(a, keep):
    """`a` where `keep`, else zeros. By way of f32, in which all TPUs can choose."""
    return jnp.where(keep, a.astype(jnp.float32), 0.0).astype(a.dtype)
