"""The replay: transitions in Redis, appended by actors, mirrored and sampled by learners.

What a crash can take with it depends on how Redis writes its append-only file (`appendfsync`),
and producers make up for most of it. They keep what was acknowledged in the last 10 s, at most
256 MiB, notice when Redis has come back without some of it, and send that again; chunks are
numbered, so that none is there twice. Learners notice that Redis came back, and drop from their
mirrors what may have changed.

    appendfsync   Redis is killed         the machine dies            after the producers' resend
    always        nothing                 nothing                     nothing
    everysec      1 to 2 s, if the disk   1 to 2 s                    nothing, if producers live on
                  was behind; else none
    no            as everysec             all since the system wrote  all older than 10 s of it
                                          it out, often 30 s
    appendonly no everything              everything                  all older than 10 s

Redis remembers for a day who appended last and what (longer where they are few), so that a chunk
can be retried for as long; a producer that was silent for half a day begins with new numbers.

In a cluster a primary acknowledges before its replica has the chunk. When the replica takes
over, what it had not received is sent again, like after a crash. A primary that is cut off
acknowledges for up to `cluster-node-timeout` more, all of which is then dropped: keep that below
the producers' 10 s. Priorities and counts of samples are as durable as the rows.
"""

from services.common.replay.backoff import patiently
from services.common.replay.batch import Batch, SequenceBatch, Transitions
from services.common.replay.connection import connect
from services.common.replay.exact import ExactMirror
from services.common.replay.fragments import FragmentBuilder
from services.common.replay.limiter import Limits
from services.common.replay.local import Sampling
from services.common.replay.memory import MemoryReplay
from services.common.replay.mirror import MirrorReplay
from services.common.replay.producer import ReplayProducer
from services.common.replay.relabel import Relabeler
from services.common.replay.replay import Replay, open_replay
from services.common.replay.samplers import Prioritized, Uniform
from services.common.replay.schema import Field, ReplaySchema
from services.common.replay.server import ServerReplay
from services.common.replay.store import ReplayStore, list_replays

__all__ = [
    "Batch",
    "ExactMirror",
    "Field",
    "FragmentBuilder",
    "Limits",
    "MemoryReplay",
    "MirrorReplay",
    "Prioritized",
    "Relabeler",
    "Replay",
    "ReplayProducer",
    "ReplaySchema",
    "ReplayStore",
    "Sampling",
    "SequenceBatch",
    "ServerReplay",
    "Transitions",
    "Uniform",
    "connect",
    "list_replays",
    "open_replay",
    "patiently",
]
