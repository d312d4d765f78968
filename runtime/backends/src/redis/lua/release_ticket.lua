-- KEYS: held, line, asked, limits. ARGV: ticket, epoch of whoever gives it back (empty: whoever has it).
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
local epoch = tonumber(ARGV[2])
if ends and epoch and tonumber(ends) > 1e14 + epoch then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
return 1
