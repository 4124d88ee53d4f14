"""Files refused for a reason that may have passed: permissions, a storage that was away, a limit, a decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from cxrtl.data.images import How, Unusable
from cxrtl.data.images.guard import decode_all
from cxrtl.data.images.rules import MAY_PASS, SLOW

_SAMPLE = 2  # files tried of each slow reason: a thousand of half a minute each would take a night


def still(paths: Mapping[str, str], skipped: Iterable[tuple[str, str]], how: How) -> bool:
    """Whether all of `skipped` (image id, reason) whose reason may pass are refused for it today; `paths` by image id.

    Tries them one after the other, up to the first that is not; of those that take long, such as by a time limit, the
    first few of each reason stand for all.
    """
    doubtful: list[tuple[str, str]] = []
    tried = Counter[str]()
    for image, reason in skipped:
        tried[reason] += 1
        if reason in MAY_PASS and (reason not in SLOW or tried[reason] <= _SAMPLE):
            doubtful.append((paths[image], reason))
    answers = decode_all([path for path, _ in doubtful], how)
    return all(
        isinstance(answer, Unusable) and answer.reason == reason
        for answer, (_, reason) in zip(answers, doubtful, strict=True)
    )
