"""The scripts that join decisions and outcomes. Each runs in Redis as one atomic step.

    tutelage:outcomes:{policy}:decisions  hash, of each decision by its id, 16 hexadecimal digits:
                                            <id>:at    "step episode", and " end" after an outcome
                                                       that ended it; the episode is the id of its
                                                       first decision
                                            <id>:row   the packed row of the replay, without what
                                                       came of it; gone when it is joined
                                            <id>:out   the outcome, packed as in `waiting`
                                            <id>:next  a packed row with the state it led to
    tutelage:outcomes:{policy}:waiting    sorted set: id → ms of the clock at which it is forgotten
    tutelage:outcomes:{policy}:joined     stream of transitions: row, next, out, at

What was joined is remembered until then too, so that an outcome that comes again is known.
"""

from services.common.replay.scripts import Script

_COMMON = """
local decisions, waiting, joined = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function part(id, name)
  return redis.call('HGET', decisions, id .. ':' .. name)
end

local function join(id, following, room)
  redis.call('XADD', joined, 'MAXLEN', room, '*', 'row', part(id, 'row'), 'next', following,
             'out', part(id, 'out'), 'at', part(id, 'at'))
  redis.call('HDEL', decisions, id .. ':row', id .. ':next')
end

local function forget(ids)
  local lost = 0
  for _, id in ipairs(ids) do
    lost = lost + redis.call('HDEL', decisions, id .. ':row')
    redis.call('HDEL', decisions, id .. ':at', id .. ':out', id .. ':next')
    redis.call('ZREM', waiting, id)
  end
  return lost
end
"""

# KEYS: decisions, waiting, joined.
# ARGV: ms that a decision waits; most decisions at once; most joined transitions at once; then
#       of each decision: id, that of the one that led to it or "", row.
# Returns how many decisions were forgotten that never were joined.
RECORD = Script(
    _COMMON
    + """
local lost = forget(redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', 0, 1000))
local over = redis.call('ZCARD', waiting) + (#ARGV - 3) / 3 - ARGV[2]
if over > 0 then
  lost = lost + forget(redis.call('ZRANGE', waiting, 0, over - 1))
end
for i = 4, #ARGV, 3 do
  local id, previous, row = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local at = '0 ' .. id
  local step, episode, ended = string.match(part(previous, 'at') or '', '^(%d+) (%x+)(.*)$')
  if step and ended == '' then
    at = string.format('%d %s', step + 1, episode)
    if redis.call('HEXISTS', decisions, previous .. ':row') == 1 then
      redis.call('HSETNX', decisions, previous .. ':next', row)
      if redis.call('HEXISTS', decisions, previous .. ':out') == 1 then
        join(previous, row, ARGV[3])
      end
    end
  end
  redis.call('HSET', decisions, id .. ':at', at, id .. ':row', row)
  redis.call('ZADD', waiting, now + ARGV[1], id)
end
return lost
"""
)

# KEYS: as above.
# ARGV: most joined transitions at once; then of each outcome: the decision's id, the packed
#       outcome, "1" where it ended the episode, a packed row with the state reached, or "".
# Returns of each: 0 it is kept, 1 there was one already, 2 there is no such decision.
REPORT = Script(
    _COMMON
    + """
local answers = {}
for i = 2, #ARGV, 4 do
  local id, out, ended, following = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local until_ms = redis.call('ZSCORE', waiting, id)
  local answer = 0
  if not until_ms or tonumber(until_ms) <= now then
    answer = 2
  elseif redis.call('HSETNX', decisions, id .. ':out', out) == 0 then
    answer = 1
  else
    if ended == '1' then
      redis.call('HSET', decisions, id .. ':at', part(id, 'at') .. ' end')
    end
    if following == '' then  -- nothing is learnt of the state after an end: its own will do
      following = part(id, ended == '1' and 'row' or 'next')
    end
    if following then
      join(id, following, ARGV[1])
    end
  end
  answers[#answers + 1] = answer
end
return answers
"""
)
