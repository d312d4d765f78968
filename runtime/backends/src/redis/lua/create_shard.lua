-- Makes a shard that nobody has owned. KEYS: owner. ARGV: identity.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'i', ARGV[1], 'e', '0', 'u', '0', 't', '0', 'c', '0')
end
return redis.call('HGET', KEYS[1], 'i')
