-- KEYS: owner, log, cursors, spool index. ARGV: epoch, up to, records at once. Answers how many are left to remove.
local o = redis.call('HMGET', KEYS[1], 'e', 't', 'c')
if o[1] ~= ARGV[1] then return o[1] end
local trimmed = tonumber(o[2])
local last = trimmed + redis.call('LLEN', KEYS[2])
-- The log went back under its owner: what is left of it is what nobody knows to be in the checkpoint.
if tonumber(o[3]) > last then return 0 end
local to = math.min(tonumber(ARGV[2]), tonumber(o[3]), last)
for _, sink in ipairs(redis.call('HKEYS', KEYS[3])) do
  local kept = tonumber(redis.call('HGET', KEYS[3], sink))
  -- What is in the sink's spool is in the log no longer needed. A chunk that ends beyond it was on its way when it went back.
  local bound = '[' .. sink .. '\0' .. string.format('%020.0f', last)
  local spooled = redis.call('ZREVRANGEBYLEX', KEYS[4], bound, '[' .. sink .. '\0', 'LIMIT', 0, 1)[1]
  if spooled then kept = math.max(kept, tonumber(string.sub(spooled, -20))) end
  to = math.min(to, kept)
end
local wanted = to - trimmed
if wanted <= 0 then return 0 end
local step = math.min(wanted, tonumber(ARGV[3]))
redis.call('LTRIM', KEYS[2], step, -1)
redis.call('HSET', KEYS[1], 't', string.format('%.0f', trimmed + step))
return wanted - step
