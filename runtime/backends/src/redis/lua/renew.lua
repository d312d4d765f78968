-- KEYS: owner. ARGV: epoch, lease in ms.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'u', string.format('%.0f', now + tonumber(ARGV[2])))
return now
