-- KEYS: owner. ARGV: epoch, number of what is kept outside the log. The next epoch is used up by nobody, so that the releaser is fenced like any
-- former owner.
-- Answers a list of one text, and nothing is released, where that number was not reached: the owner is the one who has what the store lacks.
local o = redis.call('HMGET', KEYS[1], 'e', 'n')
if o[1] ~= ARGV[1] then return o[1] end
if tonumber(o[2] or 0) < tonumber(ARGV[2]) then
  return {string.format('of what is kept outside its log %s was acknowledged, and %s is here', ARGV[2], o[2] or '0')}
end
redis.call('HDEL', KEYS[1], 'o')
redis.call('HSET', KEYS[1], 'e', string.format('%.0f', tonumber(o[1]) + 1), 'u', '0')
return 1
