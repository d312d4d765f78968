-- KEYS: owner, blobs of the root, unconfirmed. ARGV: epoch, root, since in 8 bytes, most bytes, number of what is kept outside the log or
-- `again`; then hash, bytes, content of each.
-- Answers that number with these, also where they were there already: no two answers are the same. Less than 0: the bytes that the root would
-- have, which are too many, so that nothing was kept; a list of one text where the number was not reached. What is kept again does not count:
-- the number stays as low as the store is old.
local o = redis.call('HMGET', KEYS[1], 'e', 'n')
if o[1] ~= ARGV[1] then return o[1] end
local kept, again = tonumber(o[2] or 0), ARGV[5] == 'again'
if not again and kept < tonumber(ARGV[5]) then
  return {string.format('of what is kept outside its log %s was acknowledged, and %.0f is here', ARGV[5], kept)}
end
local known = redis.call('HGET', KEYS[2], 't')
local total, new, fields = tonumber(known or 0), {}, {}
for at = 6, #ARGV, 3 do
  local hash = ARGV[at]
  if not new[hash] and redis.call('HEXISTS', KEYS[2], hash) == 0 then
    new[hash] = true
    fields[#fields + 1] = at
    total = total + tonumber(ARGV[at + 1])
  end
end
if #fields > 0 then
  if total > tonumber(ARGV[4]) then return -total end
  for _, at in ipairs(fields) do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 2]) end
  redis.call('HSET', KEYS[2], 't', string.format('%.0f', total))
  if not known then
    redis.call('HSET', KEYS[2], 's', ARGV[3])
    redis.call('ZADD', KEYS[3], 0, ARGV[3] .. ARGV[2])
  end
end
if again then return kept end
redis.call('HSET', KEYS[1], 'n', string.format('%.0f', kept + 1))
return kept + 1
