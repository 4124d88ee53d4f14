"""By what images are stratified: a class of their own for each, whatever the task."""

from __future__ import annotations

import pandas as pd

from cxrtl.records import Prepared

NONE_PRESENT = "no finding present"


def strata(index: pd.DataFrame, prepared: Prepared) -> pd.Categorical:
    """Each image's stratum: its class, where it has one; multilabel: the rarest of the findings stated present.

    The rarest, so that the finding which a fold would lack first is the one that is spread most evenly. Findings of
    equally many images count by their order.
    """
    if prepared.task == "segmentation":
        return pd.Categorical(index["label"])
    if prepared.task != "multilabel":
        return pd.Categorical(index["label"], list(prepared.classes))
    present = pd.DataFrame({name: index[f"label_{name}"] == 1 for name in prepared.classes})
    by_rarity = present[present.sum().sort_values(kind="stable").index]
    rarest = by_rarity.idxmax(axis=1).where(by_rarity.any(axis=1), NONE_PRESENT)
    return pd.Categorical(rarest, [*by_rarity, NONE_PRESENT]).remove_unused_categories()
