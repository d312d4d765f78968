-- KEYS: owner, which is there wherever its slot is. ARGV: epoch, lease in ms, number of what is kept outside the log.
-- Answers a list of one text where that number was not reached: the store went back. The lease is longer all the same, for the owner is the one
-- who has what it lacks.
local o = redis.call('HMGET', KEYS[1], 'e', 'n')
if o[1] ~= ARGV[1] then return o[1] end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'u', string.format('%.0f', now + tonumber(ARGV[2])))
if tonumber(o[2] or 0) < tonumber(ARGV[3]) then
  return {string.format('of what is kept outside its log %s was acknowledged, and %s is here', ARGV[3], o[2] or '0')}
end
return now
