-- KEYS: live, running. ARGV: id of the shard's controls, which are none.
local all, running = redis.call('HLEN', KEYS[1]), redis.call('ZCARD', KEYS[2])
return {running, all - running - redis.call('HEXISTS', KEYS[1], ARGV[1])}
