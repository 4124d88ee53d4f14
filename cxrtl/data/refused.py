"""Files refused for a reason that may have passed: permissions, a storage that was away, a limit, a decoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cxrtl.data.images import How, Unusable
from cxrtl.data.images.guard import decode_all
from cxrtl.data.images.rules import MAY_PASS


def still(paths: Mapping[str, str], skipped: Iterable[tuple[str, str]], how: How) -> bool:
    """Whether all of `skipped` (image id, reason) whose reason may pass are refused for it today; `paths` by image id.

    Tries them one after the other, up to the first that is not.
    """
    doubtful = [(paths[image], reason) for image, reason in skipped if reason in MAY_PASS]
    answers = decode_all([path for path, _ in doubtful], how)
    return all(
        isinstance(answer, Unusable) and answer.reason == reason
        for answer, (_, reason) in zip(answers, doubtful, strict=True)
    )
