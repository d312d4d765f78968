-- KEYS: owner, cursors, spool index, spool. ARGV: epoch, sink, up to, its index entry, end of the sink's entries, chunk.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local at = redis.call('HGET', KEYS[2], ARGV[2])
if at and tonumber(at) >= tonumber(ARGV[3]) then return 1 end
local later = redis.call('ZRANGEBYLEX', KEYS[3], '[' .. ARGV[4], '[' .. ARGV[5], 'LIMIT', 0, 1)
if #later > 0 then return 1 end
redis.call('ZADD', KEYS[3], 0, ARGV[4])
redis.call('HSET', KEYS[4], ARGV[4], ARGV[6])
return 1
