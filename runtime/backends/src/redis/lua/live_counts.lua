-- KEYS: live, running. ARGV: id of the shard's controls, which are none.
local all, running = redis.call('HLEN', KEYS[1]), redis.call('ZCARD', KEYS[2])
local controls = redis.call('HEXISTS', KEYS[1], ARGV[1])
local busy = redis.call('ZSCORE', KEYS[2], ARGV[1]) and 1 or 0
return {running - busy, all - running - (controls - busy)}
