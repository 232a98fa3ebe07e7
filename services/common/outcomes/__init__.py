"""What came of served decisions: decisions wait in Redis until their outcome is reported.

A decision, its outcome and the observation it led to make a transition. They come in any order
and to any replica; whichever comes last joins them, in Redis, in one atomic step. A `Feeder`
appends what is joined to the policy's replay, `outcomes_replay(policy)`, from which a run learns.

    Act, tracked     → WaitingDecisions.record   row; and what the decision before it led to
    ReportOutcome    → WaitingDecisions.report   reward, terminated, truncated; maybe what it led to
    joined           → Feeder.move               a stream, read by all replicas, each entry by one

An outcome counts once, however often it is reported, for as long as its decision would have
waited. A transition enters the replay once, unless a replica dies between appending it and saying
so: then another appends it again. Decisions wait for a limited time, and in limited number: the
oldest go first.
"""

from services.common.outcomes.feeder import Feeder
from services.common.outcomes.names import outcomes_replay
from services.common.outcomes.rows import RowMaker
from services.common.outcomes.waiting import Decided, Outcome, Reported, WaitingDecisions

__all__ = [
    "Decided",
    "Feeder",
    "Outcome",
    "Reported",
    "RowMaker",
    "WaitingDecisions",
    "outcomes_replay",
]
