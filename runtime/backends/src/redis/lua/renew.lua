-- KEYS: owner, log. ARGV: epoch, lease in ms, next position, number of what is kept outside the log.
-- Answers a list of one text where one of the two was not reached: the store went back. The lease is longer all the same, for the owner is
-- the one who has what it lacks.
local o = redis.call('HMGET', KEYS[1], 'e', 't', 'n')
if o[1] ~= ARGV[1] then return o[1] end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'u', string.format('%.0f', now + tonumber(ARGV[2])))
local next, kept = o[2] + redis.call('LLEN', KEYS[2]) + 1, tonumber(o[3] or 0)
if next < tonumber(ARGV[3]) or kept < tonumber(ARGV[4]) then
  return {string.format(
    'its log went on at %s and goes on at %.0f, of what is kept outside the log %s was acknowledged, and %.0f is here',
    ARGV[3], next, ARGV[4], kept)}
end
return now
