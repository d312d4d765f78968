-- KEYS: held, line, asked, limits, barred. ARGV: ticket, limit (empty: it runs already), 10^13 for each step of priority below the highest,
-- since when it asks (empty: now), milliseconds it is held (empty: until it is given back), epoch, milliseconds it may wait to ask again.
-- Gives 0 when it holds the key, else its place in the line, from 1; whoever is barred has the first, and stands in none. An end of 10^14 and more is no instant: the epoch is added to it.
local held, line, asked, limits, ticket = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local limit = tonumber(ARGV[2])
if tonumber(ARGV[6]) and tonumber(ARGV[6]) < tonumber(redis.call('HGET', KEYS[5], ticket) or 0) then
  return 1
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function leave_line(who)
  redis.call('ZREM', line, who)
  redis.call('ZREM', asked, who)
  redis.call('HDEL', limits, who)
end
local function take()
  local ttl = tonumber(ARGV[5])
  redis.call('ZADD', held, 'GT', ttl and now + ttl or 1e14 + tonumber(ARGV[6]), ticket)
  leave_line(ticket)
  local last = tonumber(redis.call('ZRANGE', held, -1, -1, 'WITHSCORES')[2])
  if last < 1e14 then
    redis.call('PEXPIREAT', held, string.format('%.0f', last))
  else
    redis.call('PERSIST', held)
  end
  return 0
end
redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', asked, '-inf', now)) do
  leave_line(gone)
end
if not limit or redis.call('ZSCORE', held, ticket) then
  return take()
end
local count = redis.call('ZCARD', held)
redis.call('ZADD', line, 'NX', tonumber(ARGV[3]) + (tonumber(ARGV[4]) or now), ticket)
local ahead = redis.call('ZRANK', line, ticket)
local passes = count + ahead < limit
if passes and ahead > 0 then
  -- Whoever stands ahead would come in all the same.
  for place, other in ipairs(redis.call('ZRANGE', line, 0, ahead - 1)) do
    passes = passes and count + place < (tonumber(redis.call('HGET', limits, other)) or 0)
  end
end
if passes then
  return take()
end
redis.call('ZADD', asked, now + tonumber(ARGV[7]), ticket)
redis.call('HSET', limits, ticket, limit)
for _, key in ipairs({line, asked, limits}) do
  redis.call('PEXPIRE', key, 2 * tonumber(ARGV[7]))
end
return ahead + 1
