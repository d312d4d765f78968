-- KEYS: held. ARGV: milliseconds they are held from now, tickets. Gives 1 for each that was still held.
local time = redis.call('TIME')
local until_ms = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
local renewed = {}
for at = 2, #ARGV do
  local is_held = redis.call('ZSCORE', KEYS[1], ARGV[at])
  if is_held then
    redis.call('ZADD', KEYS[1], 'XX', 'GT', until_ms, ARGV[at])
  end
  renewed[at - 1] = is_held and 1 or 0
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
if last and tonumber(last) < 1e14 then
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', tonumber(last)))
end
return renewed
