-- KEYS: owner. ARGV: epoch, number of what is kept outside the log, format.
-- Answers that number with this; a list of one text where it was not reached.
local o = redis.call('HMGET', KEYS[1], 'e', 'n')
if o[1] ~= ARGV[1] then return o[1] end
local kept = tonumber(o[2] or 0)
if kept < tonumber(ARGV[2]) then
  return {string.format('of what is kept outside its log %s was acknowledged, and %.0f is here', ARGV[2], kept)}
end
redis.call('HSET', KEYS[1], 'f', ARGV[3], 'n', string.format('%.0f', kept + 1))
return kept + 1
