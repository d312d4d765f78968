-- KEYS: owner. ARGV: epoch.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
redis.call('HDEL', KEYS[1], 'b')
return 1
