-- KEYS: barred, remembered. ARGV: ticket, first epoch that may hold the key with it, milliseconds for which that is remembered, how many
-- are forgotten at once, at most.
-- The new one is written before old ones are forgotten: a key that is emptied here cannot be touched again while its slot leaves.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local forgotten = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[4])
local over = {}
for _, ticket in ipairs(forgotten) do over[ticket] = true end
local known = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if over[ARGV[1]] or known < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1])
for _, ticket in ipairs(forgotten) do
  if ticket ~= ARGV[1] then
    redis.call('HDEL', KEYS[1], ticket)
    redis.call('ZREM', KEYS[2], ticket)
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
