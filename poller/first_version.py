"""The seq from which a topic's versions count, so that versions of different results differ where a client could take
one for the other. Pure.

Topics that are claimed in one transaction have one epoch. If all of them counted from 0, the first results of a topic
for one tenant and of that for another would have the same version, and both have the same spelling: a client or a cache
that comes back with the token of the other tenant would keep the rows that it has, as the present ones. The same goes
for the result of one spelling before and after a query has got another definition, which may give it another default.
"""

from __future__ import annotations

import zlib

from pollcast.services.catalogue.topics import Topic


def first_seq(topic: Topic, definition: str, before: int | None = None) -> int:
    """Return the seq after which a topic's versions count that its poller has just gained, or which has another
    definition now: then `before` is the last seq of the former one.

    It is 0 for a topic just gained that means the same for everybody. Others get a number of their own, of 32 bits.
    """
    if before is None and all(param.claim is None for param in topic.query.params.values()):
        return 0
    return (before or 0) + zlib.crc32(f"{definition} {topic.canonical}".encode())
