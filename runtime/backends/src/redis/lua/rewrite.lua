-- Other bytes of the same seqs, where nothing else is stored by now. KEYS: owner, live, segments, snapshot, archive.
-- ARGV: epoch, number of what is kept outside the log, id, `L` or `E`, snapshot or archive (or nothing), segments, each after its last seq.
-- Answers that number with this; 0 where nothing was changed; a list of one text where the number was not reached.
local o = redis.call('HMGET', KEYS[1], 'e', 'n')
if o[1] ~= ARGV[1] then return o[1] end
local kept = tonumber(o[2] or 0)
if kept < tonumber(ARGV[2]) then
  return {string.format('of what is kept outside its log %s was acknowledged, and %.0f is here', ARGV[2], kept)}
end
local FIXED = 5
if redis.call('LLEN', KEYS[3]) ~= #ARGV - FIXED then return 0 end
for n, segment in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
  if segment:sub(1, 8) ~= ARGV[FIXED + n]:sub(1, 8) then return 0 end
end
if ARGV[4] == 'L' then
  if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 0 then return 0 end
  if redis.call('GETRANGE', KEYS[4], 0, 7) ~= ARGV[5]:sub(1, 8) then return 0 end
  if ARGV[5] ~= '' then redis.call('SET', KEYS[4], ARGV[5]) end
else
  if redis.call('GETRANGE', KEYS[5], 0, 31) ~= ARGV[5]:sub(1, 32) then return 0 end
  redis.call('SET', KEYS[5], ARGV[5])
end
-- Setting one place of a long list after the other walks through it every time.
redis.call('DEL', KEYS[3])
for n = FIXED + 1, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[n]) end
redis.call('HSET', KEYS[1], 'n', string.format('%.0f', kept + 1))
return kept + 1
