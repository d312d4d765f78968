-- KEYS: owner, heads. ARGV: key, number of what is kept outside the log.
local o = redis.call('HMGET', KEYS[1], 'i', 'n')
if not o[1] then return {ok = 'gone'} end
if tonumber(o[2] or 0) < tonumber(ARGV[2]) then return {ok = 'behind'} end
return redis.call('HGET', KEYS[2], ARGV[1])
