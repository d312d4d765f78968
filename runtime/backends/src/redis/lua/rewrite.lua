-- Other bytes of the same seqs, where nothing else is stored by now. KEYS: owner, live, segments, snapshot, archive.
-- ARGV: epoch, id, `L` or `E`, snapshot or archive (or nothing), segments, each after its last seq. Answers 0 where nothing was changed.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local FIXED = 4
if redis.call('LLEN', KEYS[3]) ~= #ARGV - FIXED then return 0 end
for n, segment in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
  if segment:sub(1, 8) ~= ARGV[FIXED + n]:sub(1, 8) then return 0 end
end
if ARGV[3] == 'L' then
  if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return 0 end
  if redis.call('GETRANGE', KEYS[4], 0, 7) ~= ARGV[4]:sub(1, 8) then return 0 end
  if ARGV[4] ~= '' then redis.call('SET', KEYS[4], ARGV[4]) end
else
  if redis.call('GETRANGE', KEYS[5], 0, 31) ~= ARGV[4]:sub(1, 32) then return 0 end
  redis.call('SET', KEYS[5], ARGV[4])
end
-- Setting one place of a long list after the other walks through it every time.
redis.call('DEL', KEYS[3])
for n = FIXED + 1, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[n]) end
return 1
