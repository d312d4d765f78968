-- KEYS: owner, log. ARGV: epoch, next position, number of what is kept outside the log. The next epoch is used up by nobody, so that the
-- releaser is fenced like any former owner.
-- Answers a list of one text, and nothing is released, where the store went back: the owner is the one who has what it lacks.
local o = redis.call('HMGET', KEYS[1], 'e', 't', 'n')
if o[1] ~= ARGV[1] then return o[1] end
local next, kept = o[2] + redis.call('LLEN', KEYS[2]) + 1, tonumber(o[3] or 0)
if next < tonumber(ARGV[2]) or kept < tonumber(ARGV[3]) then
  return {string.format(
    'its log went on at %s and goes on at %.0f, of what is kept outside the log %s was acknowledged, and %.0f is here',
    ARGV[2], next, ARGV[3], kept)}
end
redis.call('HDEL', KEYS[1], 'o')
redis.call('HSET', KEYS[1], 'e', string.format('%.0f', tonumber(o[1]) + 1), 'u', '0')
return 1
