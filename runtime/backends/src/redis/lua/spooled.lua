-- KEYS: spool index, spool. ARGV: index entry to begin after, end of the sink's entries, bytes. Answers entries and chunks in turn.
local answer, total = {}, 0
for _, entry in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], '(' .. ARGV[1], '[' .. ARGV[2])) do
  local chunk = redis.call('HGET', KEYS[2], entry)
  total = total + #chunk
  if total > tonumber(ARGV[3]) and #answer > 0 then break end
  answer[#answer + 1] = entry
  answer[#answer + 1] = chunk
end
return answer
