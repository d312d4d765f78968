-- KEYS: owner. ARGV: epoch, format.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
redis.call('HSET', KEYS[1], 'f', ARGV[2])
return 1
