-- Answers a list of one text where neither spool nor cursor reach what the chunk goes on from.
-- KEYS: owner, cursors, spool index, spool. ARGV: epoch, sink, up to, its index entry, beginning and end of the sink's entries, up to where
-- its spool was acknowledged before, chunk.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local reached = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0)
local last = redis.call('ZREVRANGEBYLEX', KEYS[3], '[' .. ARGV[6], '[' .. ARGV[5], 'LIMIT', 0, 1)[1]
-- An entry ends with twenty digits.
if last then reached = math.max(reached, tonumber(string.sub(last, -20))) end
if reached < tonumber(ARGV[7]) then
  return {string.format('a chunk of the spool of %s goes on from %.0f, the last one here ends at %.0f', ARGV[2], ARGV[7], reached)}
end
if reached >= tonumber(ARGV[3]) then return 1 end
redis.call('ZADD', KEYS[3], 0, ARGV[4])
redis.call('HSET', KEYS[4], ARGV[4], ARGV[8])
return 1
