"""Rows that belong together because they share something, directly or by way of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrtl.records import IntArray


def together(*columns: Sequence[str]) -> IntArray:
    """`[N]`, numbered from 0 by first appearance: rows that have a value in common, in whichever of `columns` (`[N]`
    each), are one group, and so are all that are linked by such rows. "" is no value."""
    rows = len(columns[0])
    values = pd.Series([value or None for column in columns for value in column], dtype=object)
    codes, known = pd.factorize(values)
    shares = codes >= 0
    ends = np.tile(np.arange(rows), len(columns))[shares], rows + codes[shares]
    size = rows + len(known)
    links = coo_array((np.ones(shares.sum(), dtype=np.int8), ends), shape=(size, size))
    groups = connected_components(links, directed=False)[1][:rows]
    return np.asarray(pd.factorize(groups)[0], dtype=np.int64)
