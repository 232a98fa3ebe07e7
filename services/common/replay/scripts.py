"""The replay's scripts. Each runs in Redis as one atomic step.

A replay's keys share the hash tag {name}, so that they live on one shard:

    tutelage:replay:{name}:meta        hash: schema, capacity, rows_per_block, row_bytes, head
    tutelage:replay:{name}:producers   hash: producer → sequence number of its last chunk
    tutelage:replay:{name}:block:<i>   string: rows_per_block packed rows of the ring

`head` counts every row ever appended; row h lives in slot h mod capacity. Blocks keep strings
at a few MiB, far below Redis's limit of 512 MiB, and let memory grow with the data.
"""

# KEYS[1] meta
# ARGV    schema, capacity, rows_per_block, row_bytes
# Returns the schema and capacity in force: those given when the replay is new.
CREATE = """
if redis.call('HSETNX', KEYS[1], 'schema', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'capacity', ARGV[2], 'rows_per_block', ARGV[3],
             'row_bytes', ARGV[4], 'head', 0)
end
return redis.call('HMGET', KEYS[1], 'schema', 'capacity', 'rows_per_block', 'head')
"""

# KEYS[1] meta, KEYS[2] producers
# ARGV    producer, sequence number (from 1, without gaps), packed rows, block key prefix
# Returns {status, sequence, head}:
#   status 0  appended
#   status 1  this chunk was appended before; nothing was done
#   status 2  chunks from `sequence` on are missing: send them first
#   status 3  the replay is not there (it was removed, or Redis lost its data)
APPEND = """
local meta = redis.call('HMGET', KEYS[1], 'capacity', 'rows_per_block', 'row_bytes', 'head')
if not meta[1] then return {3, 0, 0} end
local capacity, per_block = tonumber(meta[1]), tonumber(meta[2])
local row_bytes, head = tonumber(meta[3]), tonumber(meta[4])
local seq = tonumber(ARGV[2])
local last = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if seq <= last then return {1, last, head} end
if seq > last + 1 then return {2, last + 1, head} end
local data = ARGV[3]
local count = #data / row_bytes
local done = 0
while done < count do
  local slot = (head + done) % capacity
  local offset = slot % per_block
  local n = math.min(count - done, per_block - offset, capacity - slot)
  local part = data
  if n < count then part = string.sub(data, done * row_bytes + 1, (done + n) * row_bytes) end
  redis.call('SETRANGE', ARGV[4] .. math.floor(slot / per_block), offset * row_bytes, part)
  done = done + n
end
redis.call('HSET', KEYS[2], ARGV[1], seq)
redis.call('HSET', KEYS[1], 'head', head + count)
return {0, seq, head + count}
"""

# KEYS[1] meta
# ARGV    first row wanted, most rows to return, block key prefix
# Returns {head, first row returned, packed rows}; rows the ring has overwritten are skipped.
# Head is -1 when the replay is not there.
TAIL = """
local meta = redis.call('HMGET', KEYS[1], 'capacity', 'rows_per_block', 'row_bytes', 'head')
if not meta[1] then return {-1, 0, ''} end
local capacity, per_block = tonumber(meta[1]), tonumber(meta[2])
local row_bytes, head = tonumber(meta[3]), tonumber(meta[4])
local first = math.max(tonumber(ARGV[1]), head - capacity)
local count = math.min(head - first, tonumber(ARGV[2]))
local parts, done = {}, 0
while done < count do
  local slot = (first + done) % capacity
  local offset = slot % per_block
  local n = math.min(count - done, per_block - offset, capacity - slot)
  parts[#parts + 1] = redis.call('GETRANGE', ARGV[3] .. math.floor(slot / per_block),
                                 offset * row_bytes, (offset + n) * row_bytes - 1)
  done = done + n
end
return {head, first, table.concat(parts)}
"""
