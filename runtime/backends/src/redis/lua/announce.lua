-- KEYS: members, expiries. ARGV: name, member, milliseconds it stays; without any only what there is is told.
-- Who comes is written before those whose time is over go: a key that is emptied here cannot be touched again while its slot leaves.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)
if ARGV[1] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1])
end
local left = redis.call('HLEN', KEYS[1])
for _, gone in ipairs(over) do
  if gone ~= ARGV[1] then
    redis.call('ZREM', KEYS[2], gone)
    if left > 0 then left = left - redis.call('HDEL', KEYS[1], gone) end
  end
end
if left == 0 then return {} end
return redis.call('HVALS', KEYS[1])
