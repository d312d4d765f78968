-- KEYS: owner, cursors. ARGV: epoch, sink, position.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local at = redis.call('HGET', KEYS[2], ARGV[2])
if not at or tonumber(at) < tonumber(ARGV[3]) then redis.call('HSET', KEYS[2], ARGV[2], ARGV[3]) end
return 1
