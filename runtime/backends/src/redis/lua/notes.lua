-- KEYS: tickets. ARGV: epoch, and a ticket with its key: it is noted; a ticket alone: it is struck out; nothing more: earlier owners are kept out.
-- Gives the epoch of a later owner that was here before, as text: then nothing happened.
local spoke = redis.call('HGET', KEYS[1], '')
if spoke and tonumber(spoke) > tonumber(ARGV[1]) then
  return spoke
end
if spoke ~= ARGV[1] then
  redis.call('HSET', KEYS[1], '', ARGV[1])
end
if not ARGV[2] then
  return 1
end
if ARGV[3] then
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
else
  redis.call('HDEL', KEYS[1], ARGV[2])
end
return 1
