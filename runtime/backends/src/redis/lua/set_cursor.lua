-- KEYS: owner, cursors, spool index, spool. ARGV: epoch, sink, position, beginning of the sink's entries, entry at the position.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local at = redis.call('HGET', KEYS[2], ARGV[2])
if not at or tonumber(at) < tonumber(ARGV[3]) then redis.call('HSET', KEYS[2], ARGV[2], ARGV[3]) end
for _, entry in ipairs(redis.call('ZRANGEBYLEX', KEYS[3], '[' .. ARGV[4], '[' .. ARGV[5])) do
  redis.call('HDEL', KEYS[4], entry)
  redis.call('ZREM', KEYS[3], entry)
end
return 1
