-- KEYS: owner, log. ARGV: epoch, number of what is kept outside the log, position that comes next. The next epoch is used up by nobody, so that the
-- releaser is fenced like any former owner.
-- Answers a list of one text, and nothing is released, where number or log do not get there: the owner is the one who has what the store lacks.
local o = redis.call('HMGET', KEYS[1], 'e', 'n', 't')
if o[1] ~= ARGV[1] then return o[1] end
if tonumber(o[2] or 0) < tonumber(ARGV[2]) then
  return {string.format('of what is kept outside its log %s was acknowledged, and %s is here', ARGV[2], o[2] or '0')}
end
local next = o[3] + redis.call('LLEN', KEYS[2]) + 1
if next < tonumber(ARGV[3]) then
  return {string.format('its log went on at %s, and goes on at %.0f', ARGV[3], next)}
end
redis.call('HDEL', KEYS[1], 'o')
redis.call('HSET', KEYS[1], 'e', string.format('%.0f', tonumber(o[1]) + 1), 'u', '0')
return 1
