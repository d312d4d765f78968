-- KEYS: owner, inbox order, inbox. ARGV: id, bytes, most items, most bytes. Answers 1, or 0 where it would be too much.
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 1 end
local held = redis.call('HMGET', KEYS[3], 't', 'n')
local total = tonumber(held[1] or 0) + #ARGV[2]
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) or total > tonumber(ARGV[4]) then return 0 end
local arrival = string.format('%.0f', tonumber(held[2] or 0) + 1)
redis.call('ZADD', KEYS[2], arrival, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2], 't', string.format('%.0f', total), 'n', arrival)
return 1
