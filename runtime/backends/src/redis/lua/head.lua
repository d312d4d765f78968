-- KEYS: owner, heads. ARGV: key.
if redis.call('EXISTS', KEYS[1]) == 0 then return {ok = 'gone'} end
return redis.call('HGET', KEYS[2], ARGV[1])
