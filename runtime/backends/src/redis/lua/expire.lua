-- KEYS: owner, expiry, tombstones, tombstone expiry, unconfirmed; then archive, segments and blobs of each execution.
-- ARGV: epoch, now in 8 bytes, tombstones at most, then the ids.
local FIXED = 5
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
local function is_past(text)
  for n = 1, 8 do
    local byte, now = text:byte(n), ARGV[2]:byte(n)
    if byte ~= now then return byte < now end
  end
  return true
end
-- Those that are over go last, but none that is written here: a key that is emptied cannot be touched again while its slot leaves.
local until_now = '[' .. ARGV[2] .. string.rep('\255', 16)
local tombstones = redis.call('ZRANGEBYLEX', KEYS[4], '-', until_now, 'LIMIT', 0, ARGV[3])
local unconfirmed = redis.call('ZCARD', KEYS[5])
local archives = 0
for n = 4, #ARGV do
  local id, x = ARGV[n], FIXED + 3 * (n - 4)
  local head = redis.call('GETRANGE', KEYS[x + 1], 0, 31)
  if head ~= '' and is_past(head:sub(9, 16)) then
    redis.call('ZREM', KEYS[2], head:sub(9, 16) .. id)
    local since = redis.call('HGET', KEYS[x + 3], 's')
    if since and unconfirmed > 0 then unconfirmed = unconfirmed - redis.call('ZREM', KEYS[5], since .. id) end
    redis.call('UNLINK', KEYS[x + 1], KEYS[x + 2], KEYS[x + 3])
    redis.call('HSET', KEYS[3], id, head:sub(1, 8) .. head:sub(25, 32))
    redis.call('ZADD', KEYS[4], 0, head:sub(25, 32) .. id)
    archives = archives + 1
  end
end
for _, tombstone in ipairs(tombstones) do
  redis.call('HDEL', KEYS[3], tombstone:sub(9))
  redis.call('ZREM', KEYS[4], tombstone)
end
return {archives, #tombstones}
