-- KEYS: owner, live, tombstones, segments, snapshot, archive. ARGV: id, number of what is kept outside the log.
-- Answers what lives in three parts, what ended in two, a tombstone as text.
local o = redis.call('HMGET', KEYS[1], 'i', 'n')
if not o[1] then return {ok = 'gone'} end
if tonumber(o[2] or 0) < tonumber(ARGV[2]) then return {ok = 'behind'} end
local live = redis.call('HGET', KEYS[2], ARGV[1])
if live then return {live, redis.call('GET', KEYS[5]), redis.call('LRANGE', KEYS[4], 0, -1)} end
local archive = redis.call('GET', KEYS[6])
if archive then return {archive, redis.call('LRANGE', KEYS[4], 0, -1)} end
return redis.call('HGET', KEYS[3], ARGV[1])
