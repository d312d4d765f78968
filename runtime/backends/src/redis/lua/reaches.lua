-- KEYS: owner, log. ARGV: epoch, position that comes next. Answers a list of one text where the log does not reach that: the store went back.
local o = redis.call('HMGET', KEYS[1], 'e', 't')
if o[1] ~= ARGV[1] then return o[1] end
local next = o[2] + redis.call('LLEN', KEYS[2]) + 1
if next < tonumber(ARGV[2]) then
  return {string.format('its log went on at %s, and goes on at %.0f', ARGV[2], next)}
end
return 1
