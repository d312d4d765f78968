-- Fixes what a deployment is, once. KEYS: meta. ARGV: format, shards, identity.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'f', ARGV[1], 'n', ARGV[2], 'i', ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'f', 'n', 'i', 'r')
