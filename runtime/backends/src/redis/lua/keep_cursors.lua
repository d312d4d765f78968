-- KEYS: owner, cursors. ARGV: epoch, sinks to keep.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local kept = {}
for place = 2, #ARGV do kept[ARGV[place]] = true end
for _, sink in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not kept[sink] then redis.call('HDEL', KEYS[2], sink) end
end
return 1
