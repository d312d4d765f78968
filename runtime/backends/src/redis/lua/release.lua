-- KEYS: owner. ARGV: epoch. The next epoch is used up by nobody, so that the releaser is fenced like any former owner.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
redis.call('HDEL', KEYS[1], 'o')
redis.call('HSET', KEYS[1], 'e', string.format('%.0f', tonumber(epoch) + 1), 'u', '0')
return 1
