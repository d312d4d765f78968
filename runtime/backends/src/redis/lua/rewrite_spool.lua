-- KEYS: owner, spool. ARGV: epoch, number of what is kept outside the log, index entry, chunk.
-- Answers that number with this; 0 where there is no such chunk; a list of one text where the number was not reached.
local o = redis.call('HMGET', KEYS[1], 'e', 'n')
if o[1] ~= ARGV[1] then return o[1] end
local kept = tonumber(o[2] or 0)
if kept < tonumber(ARGV[2]) then
  return {string.format('of what is kept outside its log %s was acknowledged, and %.0f is here', ARGV[2], kept)}
end
if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[1], 'n', string.format('%.0f', kept + 1))
return kept + 1
