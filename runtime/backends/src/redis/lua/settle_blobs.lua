-- KEYS: owner, blobs of the root, unconfirmed. ARGV: epoch, root, and 1 if it exists.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local since = redis.call('HGET', KEYS[2], 's')
if since then
  redis.call('ZREM', KEYS[3], since .. ARGV[2])
  if ARGV[3] ~= '1' then redis.call('UNLINK', KEYS[2]) end
end
return 1
