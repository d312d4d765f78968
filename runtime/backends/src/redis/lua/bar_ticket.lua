-- KEYS: barred. ARGV: ticket, first epoch that may hold the key with it, milliseconds for which that is remembered.
local known = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if known < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
