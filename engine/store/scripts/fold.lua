#!lua
-- Save what a batch of events made of one customer: facts, state, ids already seen, outcomes of decisions and
-- settled budgets, all or nothing (G12). The commit of a merge uses it as well.
--
-- KEYS[1] customer hash    KEYS[2] active policy    KEYS[3] trail (stream)
-- KEYS[4..3+n] decisions of a day (hash), one an outcome
-- KEYS[4+n+2i], KEYS[5+n+2i] settled quota i: live holds (sorted set), spent (hash)
-- ARGV[1] facts version    ARGV[2] state version (8 bytes each, as loaded)    ARGV[3] policy version ("" for any)
-- ARGV[4] new facts ("" for unchanged)   ARGV[5] new state ("" for unchanged, "-" to delete)
-- ARGV[6] new seen ("" for unchanged, "-" to delete)   ARGV[7] n
-- ARGV[8+3i...] outcome i: field, value, step of the trail
-- then for each settled quota: member, amount, period of the spending
--
-- Returns {0, store time in ms} when written, {1, time, facts, state, seen} when something changed since the
-- load, {2, time, version} when another policy is active.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

if ARGV[3] ~= '' then
  local active = redis.call('GET', KEYS[2])
  if active ~= ARGV[3] then return {2, now, active} end
end
local held = redis.call('HMGET', KEYS[1], 'f', 'p', 'e')
local none = '\0\0\0\0\0\0\0\0'
if (held[1] and string.sub(held[1], 1, 8) or none) ~= ARGV[1]
  or (held[2] and string.sub(held[2], 1, 8) or none) ~= ARGV[2] then
  return {1, now, held[1], held[2], held[3]}
end

for field, value in pairs({f = ARGV[4], p = ARGV[5], e = ARGV[6]}) do
  if value == '-' then
    redis.call('HDEL', KEYS[1], field)
  elseif value ~= '' then
    redis.call('HSET', KEYS[1], field, value)
  end
end
local n = tonumber(ARGV[7])
for i = 0, n - 1 do
  if redis.call('EXISTS', KEYS[4 + i]) == 1 then
    redis.call('HSET', KEYS[4 + i], ARGV[8 + 3 * i], ARGV[9 + 3 * i])
    redis.call('XADD', KEYS[3], '*', 's', ARGV[10 + 3 * i])
  end
end
local key, arg = 4 + n, 8 + 3 * n
while key < #KEYS do
  redis.call('ZREM', KEYS[key], ARGV[arg])
  redis.call('HINCRBY', KEYS[key + 1], ARGV[arg + 2], ARGV[arg + 1])
  key, arg = key + 2, arg + 3
end
return {0, now}
