-- KEYS: outputs, uses. ARGV: key, now in 8 bytes, now, ms between two notes of a use.
local found = redis.call('HGET', KEYS[1], ARGV[1])
if not found then return false end
for n = 1, 9 do
  local byte, now = found:byte(n), ARGV[2]:byte(n)
  if n == 9 or byte < now then return false end
  if byte > now then break end
end
local used = redis.call('ZSCORE', KEYS[2], ARGV[1])
if used and tonumber(used) + tonumber(ARGV[4]) <= tonumber(ARGV[3]) then
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
end
return found:sub(9)
