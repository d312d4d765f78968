-- KEYS: owner, log. ARGV: epoch, position, commit id and record, number of what is kept outside the log.
-- Answers a list of one text where that number was not reached: the store went back.
local o = redis.call('HMGET', KEYS[1], 'e', 't', 'n')
if o[1] ~= ARGV[1] then return o[1] end
if tonumber(o[3] or 0) < tonumber(ARGV[4]) then
  return {string.format('of what is kept outside its log %s was acknowledged, and %s is here', ARGV[4], o[3] or '0')}
end
local next = o[2] + redis.call('LLEN', KEYS[2]) + 1
if next ~= tonumber(ARGV[2]) then return next end
-- The only write: the append-only file gets this one command, without a transaction around it.
redis.call('RPUSH', KEYS[2], ARGV[3])
return 0
