-- KEYS: owner, log. ARGV: from, bytes. Answers the first position and the records, at least one if there is one.
local trimmed = redis.call('HGET', KEYS[1], 't')
if not trimmed then return false end
local length = redis.call('LLEN', KEYS[2])
local at = math.max(tonumber(ARGV[1]) - trimmed - 1, 0)
local most = tonumber(ARGV[2])
local answer, total, batch = {trimmed + at + 1}, 0, 1
while at < length do
  local records = redis.call('LRANGE', KEYS[2], at, at + batch - 1)
  for _, record in ipairs(records) do
    total = total + #record - 16
    if total > most and #answer > 1 then return answer end
    answer[#answer + 1] = record
  end
  at = at + #records
  -- As many as would fit if they were like those before.
  local mean = math.max(total / (#answer - 1), 1)
  batch = math.max(math.min(math.floor((most - total) / mean), 256), 1)
end
return answer
