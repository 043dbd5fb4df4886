#!lua
-- Commit one judgement on one customer: if nothing that was judged has changed, write all of it, else nothing.
--
-- What comes after ARGV[4] (and KEYS[2]) may be left out as a whole: no decision, no idempotency key, no step, no
-- quotas.
--
-- KEYS[1] customer hash      KEYS[2] active policy    KEYS[3] decisions of the day (hash)
-- KEYS[4] idempotency answer KEYS[5] trail (stream)
-- KEYS[6+2i], KEYS[7+2i]   quota i: live holds (sorted set), spent (hash)
-- ARGV[1] facts version that was judged (8 bytes)     ARGV[2] policy version that judged ("" for any)
-- ARGV[3] deadline, ms: the moment at which a yes could turn into a no ("" for none)
-- ARGV[4] new facts ("" for unchanged)                ARGV[5] decision uid   ARGV[6] decision record ("" for none)
-- ARGV[7] when the day's decisions may go, ms         ARGV[8] idempotency answer ("" for none)
-- ARGV[9] its life, ms                                ARGV[10] step of the trail ("" for none)
-- ARGV[11+6i...] quota i: op, member, amount, limit, live until (ms), period of the spending.
--   hold: take if there is room, until it ends; extend: hold on, unasked; take: spend if there is room;
--   settle: spend what was held; drop: give back
--
-- Returns {code, store time in ms, payload}: 0 done; 1 the facts changed (payload: facts, state);
-- 2 another policy is active (payload: its version); 3 too late; 4 answered before (payload: the answer);
-- 5 a quota is used up (payload: its index from 0). Only 0 has written anything.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local answer, record, step = ARGV[8] or '', ARGV[6] or '', ARGV[10] or ''
if answer ~= '' then
  local answered = redis.call('GET', KEYS[4])
  if answered then return {4, now, answered} end
end
if ARGV[2] ~= '' then
  local active = redis.call('GET', KEYS[2])
  if active ~= ARGV[2] then return {2, now, active} end
end
local facts = redis.call('HGET', KEYS[1], 'f')
local version = facts and string.sub(facts, 1, 8) or '\0\0\0\0\0\0\0\0'
if version ~= ARGV[1] then return {1, now, facts, redis.call('HGET', KEYS[1], 'p')} end
if ARGV[3] ~= '' and now >= tonumber(ARGV[3]) then return {3, now} end

local quotas = (#KEYS - 5) / 2
local taken = {}
for i = 0, quotas - 1 do
  local arg = 11 + 6 * i
  if ARGV[arg] == 'hold' or ARGV[arg] == 'take' then
    local holds, amount = KEYS[6 + 2 * i], tonumber(ARGV[arg + 2])
    local live = redis.call('ZCOUNT', holds, '(' .. string.format('%d', now), '+inf')
    local spent = tonumber(redis.call('HGET', KEYS[7 + 2 * i], ARGV[arg + 5]) or 0)
    taken[holds] = (taken[holds] or 0) + amount
    if not (live * amount + spent + taken[holds] <= tonumber(ARGV[arg + 3])) then return {5, now, i} end
  end
end

if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'f', ARGV[4]) end
if record ~= '' then
  redis.call('HSET', KEYS[3], ARGV[5], record)
  redis.call('PEXPIREAT', KEYS[3], ARGV[7])
end
for i = 0, quotas - 1 do
  local arg = 11 + 6 * i
  local holds, op, member = KEYS[6 + 2 * i], ARGV[arg], ARGV[arg + 1]
  if op == 'hold' or op == 'extend' then
    redis.call('ZREMRANGEBYSCORE', holds, '-inf', string.format('%d', now))
    redis.call('ZADD', holds, ARGV[arg + 4], member)
  else
    redis.call('ZREM', holds, member)
    if op ~= 'drop' then redis.call('HINCRBY', KEYS[7 + 2 * i], ARGV[arg + 5], ARGV[arg + 2]) end
  end
end
if step ~= '' then redis.call('XADD', KEYS[5], '*', 's', step) end
if answer ~= '' then redis.call('SET', KEYS[4], answer, 'PX', ARGV[9]) end
return {0, now}
