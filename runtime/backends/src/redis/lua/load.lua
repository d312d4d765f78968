-- KEYS: owner, live, tombstones, segments, snapshot, archive. ARGV: id.
-- Answers what lives in three parts, what ended in two, a tombstone as text.
if redis.call('EXISTS', KEYS[1]) == 0 then return {ok = 'gone'} end
local live = redis.call('HGET', KEYS[2], ARGV[1])
if live then return {live, redis.call('GET', KEYS[5]), redis.call('LRANGE', KEYS[4], 0, -1)} end
local archive = redis.call('GET', KEYS[6])
if archive then return {archive, redis.call('LRANGE', KEYS[4], 0, -1)} end
return redis.call('HGET', KEYS[3], ARGV[1])
