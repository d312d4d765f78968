-- KEYS: owner, log. ARGV: epoch, position, commit id and record.
local o = redis.call('HMGET', KEYS[1], 'e', 't')
if o[1] ~= ARGV[1] then return o[1] end
local next = o[2] + redis.call('LLEN', KEYS[2]) + 1
if next ~= tonumber(ARGV[2]) then return next end
-- The only write: the append-only file gets this one command, without a transaction around it.
redis.call('RPUSH', KEYS[2], ARGV[3])
return 0
