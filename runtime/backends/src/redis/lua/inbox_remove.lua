-- KEYS: owner, inbox order, inbox. ARGV: epoch; ids.
local epoch = redis.call('HGET', KEYS[1], 'e')
if not epoch then return false end
if epoch ~= ARGV[1] then return epoch end
-- A key that is emptied here is not touched again: while its slot leaves, Redis takes it for one that has moved, and ends the script.
local left = redis.call('ZCARD', KEYS[2])
local total = tonumber(redis.call('HGET', KEYS[3], 't') or 0)
for at = 2, #ARGV do
  if left > 0 and redis.call('ZREM', KEYS[2], ARGV[at]) == 1 then
    left = left - 1
    total = total - redis.call('HSTRLEN', KEYS[3], ARGV[at])
    redis.call('HDEL', KEYS[3], ARGV[at])
    redis.call('HSET', KEYS[3], 't', string.format('%.0f', total))
  end
end
return 1
