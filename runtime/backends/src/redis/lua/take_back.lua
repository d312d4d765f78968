-- KEYS: owner, log. ARGV: epoch, name, lease in ms.
-- The shard is under that epoch from now on, if it was not already. Answers a list of where its log goes on and, where it holds a record, of the
-- commit of the last one; 0 while another owner's lease holds; a later epoch as text.
local o = redis.call('HMGET', KEYS[1], 'e', 'o', 'u', 't')
if not o[1] then return false end
if tonumber(o[1]) > tonumber(ARGV[1]) then return o[1] end
if o[1] ~= ARGV[1] then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if o[2] and o[2] ~= ARGV[2] and tonumber(o[3]) > now then return 0 end
  redis.call('HSET', KEYS[1], 'e', ARGV[1], 'o', ARGV[2], 'u', string.format('%.0f', now + tonumber(ARGV[3])))
end
local last = redis.call('LINDEX', KEYS[2], -1)
return {o[4] + redis.call('LLEN', KEYS[2]) + 1, last and string.sub(last, 1, 16)}
