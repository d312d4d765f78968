-- KEYS: owner, inbox order, inbox. ARGV: arrival to begin after, bytes. Answers arrival, id and bytes in turn.
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local answer, total = {}, 0
local found = redis.call('ZRANGE', KEYS[2], '(' .. ARGV[1], '+inf', 'BYSCORE', 'WITHSCORES')
for at = 1, #found, 2 do
  local bytes = redis.call('HGET', KEYS[3], found[at])
  total = total + #bytes
  if total > tonumber(ARGV[2]) and #answer > 0 then break end
  answer[#answer + 1] = found[at + 1]
  answer[#answer + 1] = found[at]
  answer[#answer + 1] = bytes
end
return answer
