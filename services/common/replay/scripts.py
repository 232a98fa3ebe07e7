"""The replay's scripts. Each runs in Redis as one atomic step.

The keys of one shard share a hash tag, so that they live on one node of a cluster; `tag` below
is as `services.common.replay.keys` makes it:

    tutelage:replay:{tag}:meta          hash, see below
    tutelage:replay:{tag}:readers       hash: reader → "rows ms": what it has sampled, as last
                                        reported and when; forgotten like producers
    tutelage:replay:{tag}:times         hash: part of the ring, modulo → ms of its first append
    tutelage:replay:{tag}:block:<i>     string: rows_per_block packed rows of the ring
    tutelage:replay:{tag}:priorities:<sampler>   hash: id, head, maximum, first slot → float32s

    meta    id                microseconds of the clock when the shard was made: which one it is
            schema, capacity (of this shard), rows_per_block, row_bytes; total, shards
            head              rows ever appended; row h lives in slot h mod capacity
            inserted, sampled step rows ever appended, and rows ever sampled
            sample_rate, sample_ms    rows/s sampled of late, and when last
            read_to           the head, as far as the learner knows that reported samples last
            waits             chunks that were told to wait
            producer:<id>     "sequence ms" of its last chunk; forgotten after a day without one,
                              when there are more than 256 fields here
            run_id            of the server that wrote last
            ms                of the clock at the last append
            epoch, previous_epoch, epoch_head    see RESTART
            lost              rows before this one had been overwritten when it was last cut back
            durable_head      the head when a learner last asked for all before it to be on disk
            samples_per_insert, error_buffer, min_size    the limits, when there are any

Blocks keep strings at a few MiB, far below Redis's limit of 512 MiB, and let memory grow with
the data. A block is allocated whole when it is begun: strings that grow are given up to 1 MiB
more than they need.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import redis

from services.common.replay.connection import Client

Argument = str | bytes | int | float


@dataclass(frozen=True)
class Script:
    """A script by its text."""

    text: str

    @cached_property
    def sha(self) -> str:
        """What Redis calls it."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: Client, keys: list[str], *args: Argument) -> Any:
        """Run it where its keys live; teaches it to a server that does not know it."""
        run: Callable[..., Any] = client.execute_command
        try:
            return run("EVALSHA", self.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return run("EVAL", self.text, len(keys), *keys, *args)


# A server that crashed may have come back without its last appends, and producers may send
# them again in another order: rows numbered from `epoch_head` on may be others than before.
# Whoever comes first after a restart, or after a replica took over, notes it, before anything
# else happens. Epochs are of the clock, for one counted up could be lost in a crash and be
# given out again. Within 5 ms of the last append no server has died and another come up, and
# the run id, which takes a tenth of a small append's time, is not asked for.
RESTART = """
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local function clock_ms()
  return math.floor(clock() / 1000)
end
local function note_restart(meta, run_id, epoch, head, ms, now)
  if now >= ms and now < ms + 5 then return epoch, false end
  local info = redis.call('INFO', 'server')
  if string.find(info, run_id, 1, true) then return epoch, false end
  local new = math.max(epoch + 1, clock())
  redis.call('HSET', meta, 'run_id', string.match(info, 'run_id:(%w+)'),
             'previous_epoch', epoch, 'epoch', new, 'epoch_head', head)
  return new, true
end
"""

# KEYS[1] meta, KEYS[2] readers
# ARGV    schema, capacity, rows_per_block, row_bytes, total, shards,
#         samples_per_insert, error_buffer, min_size (empty to leave the limits as they are),
#         seconds for which who appends or reads nothing is remembered
# Returns id, schema, total, shards, head as stored: those given when the shard is new.
OPEN = Script(
    """#!lua flags=allow-oom
"""
    + RESTART
    + """
local meta = KEYS[1]
if redis.call('EXISTS', meta) == 0 then
  local now = clock()
  redis.call('HSET', meta, 'id', now, 'schema', ARGV[1], 'capacity', ARGV[2],
             'rows_per_block', ARGV[3], 'row_bytes', ARGV[4], 'total', ARGV[5],
             'shards', ARGV[6], 'head', 0, 'inserted', 0, 'sampled', 0, 'waits', 0,
             'epoch', now, 'previous_epoch', 0, 'epoch_head', 0, 'ms', 0,
             'run_id', string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'))
end
local m = redis.call('HMGET', meta, 'id', 'schema', 'total', 'shards', 'head', 'run_id', 'epoch')
-- Data of an earlier layout has another schema version, and is refused by that.
if not m[1] then return {'', m[2], 0, 0, 0} end
local now = clock_ms()
note_restart(meta, m[6], tonumber(m[7]), m[5], 0, now)
for _, key in ipairs(KEYS) do
  if redis.call('HLEN', key) > 256 then
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
      local ms = string.match(all[i + 1], '^%d+ (%d+)$')
      local someone = key ~= meta or string.sub(all[i], 1, 9) == 'producer:'
      if someone and now - tonumber(ms or '0') > ARGV[10] * 1000 then
        redis.call('HDEL', key, all[i])
      end
    end
  end
end
if ARGV[7] ~= '' and m[2] == ARGV[1] and m[3] == ARGV[5] and m[4] == ARGV[6] then
  redis.call('HSET', meta, 'samples_per_insert', ARGV[7], 'error_buffer', ARGV[8],
             'min_size', ARGV[9])
end
return {m[1], m[2], m[3], m[4], m[5]}
"""
)

# KEYS[1] meta
# ARGV    id, producer, sequence number (from 1, without gaps), packed rows, steps among them
# Returns {status, sequence, head, wait in ms, samples ahead, epoch}; 0 for what does not matter:
#   status 0  appended
#   status 1  this chunk was appended before; nothing was done
#   status 2  chunks from `sequence` on are missing: send them first
#   status 3  the replay is not there (it was removed, or Redis lost its data)
#   status 4  the limits say to wait
APPEND = Script(
    RESTART
    + """
local call, meta, producer = redis.call, KEYS[1], 'producer:' .. ARGV[2]
local m = call('HMGET', meta, 'id', 'capacity', 'rows_per_block', 'row_bytes', 'head', 'run_id',
               'epoch', 'inserted', 'samples_per_insert', 'error_buffer', 'min_size', 'sampled',
               'sample_rate', 'ms', producer)
if m[1] ~= ARGV[1] then return {3, 0, 0, 0, 0, 0} end
local capacity, per_block, row_bytes = tonumber(m[2]), tonumber(m[3]), tonumber(m[4])
local head, inserted, now = tonumber(m[5]), tonumber(m[8]), clock_ms()
local epoch = note_restart(meta, m[6], tonumber(m[7]), head, tonumber(m[14]), now)

local seq, steps = tonumber(ARGV[3]), tonumber(ARGV[5])
local last = m[15] and tonumber(string.match(m[15], '%d+')) or 0
if seq <= last then return {1, last, head, 0, 0, 0} end
if seq > last + 1 then return {2, last + 1, head, 0, 0, 0} end
local spi = tonumber(m[9] or '0')
if spi > 0 then
  local most = tonumber(m[11]) * spi + tonumber(m[10])
  local ahead = math.ceil((inserted + steps) * spi - tonumber(m[12]) - most)
  if ahead > 0 then
    call('HINCRBY', meta, 'waits', 1)
    local rate = tonumber(m[13] or '0')
    local wait = rate > 0 and math.ceil(1000 * ahead / rate) or 100
    return {4, last, head, math.max(1, math.min(wait, 1000)), ahead, 0}
  end
end

local data, prefix = ARGV[4], string.sub(meta, 1, -5)
local count = #data / row_bytes
local done = math.max(0, count - capacity)
while done < count do
  local slot = (head + done) % capacity
  local offset = slot % per_block
  local n = math.min(count - done, per_block - offset, capacity - slot)
  local part = data
  if n < count then part = string.sub(data, done * row_bytes + 1, (done + n) * row_bytes) end
  local begin = slot - offset
  local key = prefix .. 'block:' .. begin / per_block
  if offset == 0 and head + done < capacity and n < per_block then
    local size = math.min(per_block, capacity - begin) * row_bytes
    call('SETRANGE', key, size - 1, '\\0')
  end
  call('SETRANGE', key, offset * row_bytes, part)
  done = done + n
end

local part_rows = math.ceil(capacity / 64)
local newest = math.floor((head + count - 1) / part_rows)
local before = math.floor((head - 1) / part_rows)
for part = math.max(before + 1, newest - 64), newest do
  call('HSET', prefix .. 'times', part % 65, now)
end
call('HSET', meta, 'head', head + count, 'inserted', inserted + steps,
     producer, ARGV[3] .. ' ' .. now, 'ms', now)
return {0, seq, head + count, 0, 0, epoch}
"""
)

# KEYS[1] meta
# ARGV    id, head, inserted and sampled to go back to, rows before that head which must be there
# Returns {status, rows}:
#   status 0  done
#   status 1  the replay is not there, or is another one
#   status 2  only so many rows are there
#   status 3  some of the rows that must be there were overwritten: those before that number
# Others see it as they see a restart that lost rows. Producers are forgotten: what one of
# before still has under way is of no use now, and is told to begin anew.
CUT_BACK = Script(
    """#!lua flags=allow-oom
"""
    + RESTART
    + """
local call, meta = redis.call, KEYS[1]
local m = call('HMGET', meta, 'id', 'head', 'capacity', 'lost', 'epoch')
if m[1] ~= ARGV[1] then return {1, 0} end
local head, to, needed = tonumber(m[2]), tonumber(ARGV[2]), tonumber(ARGV[5])
local lost = math.max(head - tonumber(m[3]), tonumber(m[4] or '0'))
if to > head then return {2, head} end
if to - needed < math.min(lost, to) then return {3, lost} end
local all = call('HGETALL', meta)
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 9) == 'producer:' then call('HDEL', meta, all[i]) end
end
call('HSET', meta, 'head', to, 'inserted', ARGV[3], 'sampled', ARGV[4], 'lost', math.min(lost, to),
     'read_to', to, 'previous_epoch', m[5], 'epoch', math.max(tonumber(m[5]) + 1, clock()),
     'epoch_head', to)
return {0, to}
"""
)

# KEYS[1] meta, KEYS[2] readers
# ARGV    first row wanted, most rows to return, reader, rows it sampled since its last call that
#         was answered, and ever
# Returns {head, first row returned, packed rows, epoch, previous epoch, epoch_head, inserted,
# sampled}; rows the ring has overwritten are skipped. Head is -1 when the replay is not there.
# Reports are of totals, so that one that was lost, by a crash or with its reply, is made up for.
TAIL = Script(
    """#!lua flags=allow-oom
"""
    + RESTART
    + """
local call, meta = redis.call, KEYS[1]
local m = call('HMGET', meta, 'capacity', 'rows_per_block', 'row_bytes', 'head', 'run_id', 'epoch',
               'previous_epoch', 'epoch_head', 'inserted', 'sampled', 'sample_rate', 'sample_ms',
               'ms')
if not m[1] then return {-1, 0, '', 0, 0, 0, 0, 0} end
local capacity, per_block, row_bytes = tonumber(m[1]), tonumber(m[2]), tonumber(m[3])
local head, previous, epoch_head = tonumber(m[4]), tonumber(m[7]), tonumber(m[8])
local now = clock_ms()
local epoch, restarted = note_restart(meta, m[5], tonumber(m[6]), head, tonumber(m[13]), now)
if restarted then previous, epoch_head = tonumber(m[6]), head end

local sampled = tonumber(m[10])
local fresh, ever = tonumber(ARGV[4]), tonumber(ARGV[5])
if fresh > 0 then
  local known = call('HGET', KEYS[2], ARGV[3])
  if known then fresh = math.max(0, ever - tonumber(string.match(known, '%d+'))) end
  sampled = sampled + fresh
  local s = math.max(now - tonumber(m[12] or now), 1) / 1000
  local rate = tonumber(m[11] or '0')
  rate = rate + (fresh / s - rate) * (1 - math.exp(-s))
  call('HSET', KEYS[2], ARGV[3], ARGV[5] .. ' ' .. now)
  call('HSET', meta, 'sampled', sampled, 'sample_rate', rate, 'sample_ms', now)
end

local first = math.max(tonumber(ARGV[1]), head - capacity)
local count = math.min(head - first, tonumber(ARGV[2]))
local parts, done, block = {}, 0, string.sub(meta, 1, -5) .. 'block:'
while done < count do
  local slot = (first + done) % capacity
  local offset = slot % per_block
  local n = math.min(count - done, per_block - offset, capacity - slot)
  parts[#parts + 1] = call('GETRANGE', block .. (slot - offset) / per_block,
                           offset * row_bytes, (offset + n) * row_bytes - 1)
  done = done + n
end
if fresh > 0 then
  call('HSET', meta, 'read_to', ARGV[2] == '0' and head or first + done)
end
return {head, first, table.concat(parts), epoch, previous, epoch_head, tonumber(m[9]),
        sampled}
"""
)

# KEYS[1] meta
# ARGV    row numbers (MessagePack array), rows wanted before each, rows after
# Returns {head, positions among the numbers that are not there (from 0), rows}: for each number
# `before + 1 + after` packed rows, zeros where any of them is not there.
# Head is -1 when the replay is not there.
SAMPLE = Script(
    """
local call = redis.call
local m = call('HMGET', KEYS[1], 'capacity', 'rows_per_block', 'row_bytes', 'head')
if not m[1] then return {-1, {}, ''} end
local capacity, per_block, row_bytes = tonumber(m[1]), tonumber(m[2]), tonumber(m[3])
local head = tonumber(m[4])
local numbers, before, after = cmsgpack.unpack(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local width = before + 1 + after
local bytes = width * row_bytes - 1
local low, high = math.max(head - capacity, 0) + before, head - 1 - after
local block, keys, rows, gone = string.sub(KEYS[1], 1, -5) .. 'block:', {}, {}, {}
for i = 0, math.floor((math.min(head, capacity) - 1) / per_block) do
  keys[i * per_block] = block .. i
end

local function in_parts(slot)
  local parts, left = {}, width
  while left > 0 do
    local offset = slot % per_block
    local n = math.min(left, per_block - offset, capacity - slot)
    parts[#parts + 1] = call('GETRANGE', keys[slot - offset], offset * row_bytes,
                             (offset + n) * row_bytes - 1)
    slot, left = (slot + n) % capacity, left - n
  end
  return table.concat(parts)
end

for i = 1, #numbers do
  local number = numbers[i]
  if number < low or number > high then
    rows[i] = string.rep('\\0', bytes + 1)
    gone[#gone + 1] = i - 1
  else
    local slot = (number - before) % capacity
    local offset = slot % per_block
    if offset + width > per_block or slot + width > capacity then
      rows[i] = in_parts(slot)
    else
      local from = offset * row_bytes
      rows[i] = call('GETRANGE', keys[slot - offset], from, from + bytes)
    end
  end
end
return {head, gone, table.concat(rows)}
"""
)

# KEYS[1] meta, KEYS[2] priorities
# ARGV    id, head, maximum, then pairs of first slot and packed float32
# Returns 0 when the replay is not there.
SAVE_PRIORITIES = Script(
    """
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'id') ~= ARGV[1] then redis.call('DEL', KEYS[2]) end
redis.call('HSET', KEYS[2], 'id', ARGV[1], 'head', ARGV[2], 'maximum', ARGV[3], unpack(ARGV, 4))
return 1
"""
)

# KEYS[1] meta, KEYS[2] times
# Returns {meta as a list of fields and values, times as such a list, bytes of memory, now in ms};
# the first is empty when the replay is not there.
STATS = Script(
    RESTART
    + """
local call = redis.call
local meta = call('HGETALL', KEYS[1])
if #meta == 0 then return {meta, {}, 0, 0} end
local m = call('HMGET', KEYS[1], 'capacity', 'rows_per_block', 'head')
local rows = math.min(tonumber(m[1]), tonumber(m[3]))
local bytes, block = 0, string.sub(KEYS[1], 1, -5) .. 'block:'
for i = 1, #KEYS do bytes = bytes + (call('MEMORY', 'USAGE', KEYS[i], 'SAMPLES', 0) or 0) end
for i = 0, math.ceil(rows / tonumber(m[2])) - 1 do
  bytes = bytes + (call('MEMORY', 'USAGE', block .. i) or 0)
end
return {meta, call('HGETALL', KEYS[2]), bytes, clock_ms()}
"""
)
