-- KEYS: owner, cursors, spool index, spool. ARGV: epoch, sinks to keep.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local kept = {}
for place = 2, #ARGV do kept[ARGV[place]] = true end
for _, sink in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not kept[sink] then redis.call('HDEL', KEYS[2], sink) end
end
for _, entry in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  -- An entry is the sink, a zero byte and twenty digits.
  if not kept[string.sub(entry, 1, -22)] then
    redis.call('HDEL', KEYS[4], entry)
    redis.call('ZREM', KEYS[3], entry)
  end
end
return 1
