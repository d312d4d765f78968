-- KEYS: spool index, spool. ARGV: beginning and end of the sink's entries. Answers entries and lengths in turn.
local answer = {}
for _, entry in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], '[' .. ARGV[1], '[' .. ARGV[2])) do
  answer[#answer + 1] = entry
  answer[#answer + 1] = redis.call('HSTRLEN', KEYS[2], entry)
end
return answer
