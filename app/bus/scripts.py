"""What Redis does in one step."""

from __future__ import annotations

# KEYS: the log. ARGV: the number before the first entry, milliseconds, the oldest number that is kept,
# entries. What is there already is left out, so that whatever may be lost can be sent again.
RECORD = """
local before = tonumber(ARGV[1])
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = newest and tonumber(string.match(newest[1], '^%d+')) or 0
for i = 4 + math.max(0, last - before), #ARGV do
  redis.call('XADD', KEYS[1], string.format('%d-0', before + i - 3), 'e', ARGV[i])
end
redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[3])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: the claim. ARGV: value, milliseconds.
CLAIM = """
local taken = redis.call('GET', KEYS[1])
if taken and taken ~= ARGV[1] then
  return taken
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""

# KEYS: the claim. ARGV: value.
RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""

# KEYS: the counter. ARGV: how many, milliseconds.
COUNT = """
local counted = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return counted
"""

# KEYS: the group, what this process says of it. ARGV: the process, milliseconds, names and values.
ANNOUNCE = """
redis.call('DEL', KEYS[2])
if #ARGV < 4 then
  return redis.call('SREM', KEYS[1], ARGV[1])
end
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('SADD', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
"""

# KEYS: the group. Returns a list for each process: its id, then names and values. Those whose time is
# over are dropped.
PRESENT = """
local present = {}
for _, process in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local said = redis.call('HGETALL', KEYS[1] .. ':' .. process)
  if #said == 0 then
    redis.call('SREM', KEYS[1], process)
  else
    table.insert(said, 1, process)
    table.insert(present, said)
  end
end
return present
"""
