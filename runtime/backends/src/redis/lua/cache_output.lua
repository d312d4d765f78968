-- KEYS: outputs, uses, expiry, bytes. ARGV: key, now, now in 8 bytes, expiry in 8 bytes, output, most entries, most bytes,
-- expired ones that go at once.
-- What comes is written before others go: a key that is emptied here cannot be touched again while its slot leaves.
local bytes = tonumber(redis.call('GET', KEYS[4]) or 0)
local entries_max, bytes_max = tonumber(ARGV[6]), tonumber(ARGV[7])
local left = redis.call('HLEN', KEYS[1])
local function remove(key)
  local found = left > 0 and redis.call('HGET', KEYS[1], key)
  if not found then return end
  left = left - 1
  bytes = bytes - (#found - 8)
  redis.call('HDEL', KEYS[1], key)
  redis.call('ZREM', KEYS[2], key)
  redis.call('ZREM', KEYS[3], found:sub(1, 8) .. key)
end
local until_now = '[' .. ARGV[3] .. string.rep('\255', 32)
local expired = redis.call('ZRANGEBYLEX', KEYS[3], '-', until_now, 'LIMIT', 0, ARGV[8])
if #ARGV[5] <= bytes_max and entries_max > 0 then
  local found = redis.call('HGET', KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[4] .. ARGV[5])
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
  redis.call('ZADD', KEYS[3], 0, ARGV[4] .. ARGV[1])
  bytes = bytes + #ARGV[5]
  if found then
    bytes = bytes - (#found - 8)
    if found:sub(1, 8) ~= ARGV[4] then redis.call('ZREM', KEYS[3], found:sub(1, 8) .. ARGV[1]) end
  else
    left = left + 1
  end
else
  remove(ARGV[1])
end
for _, entry in ipairs(expired) do
  if entry:sub(9) ~= ARGV[1] then remove(entry:sub(9)) end
end
while left > 0 and (bytes > bytes_max or left > entries_max) do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 1)
  local goes = oldest[1] ~= ARGV[1] and oldest[1] or oldest[2]
  if not goes then break end
  remove(goes)
end
redis.call('SET', KEYS[4], string.format('%.0f', bytes))
return 1
