-- KEYS: owner, log, cursors, spool index, spool. ARGV: identity, name, lease in ms, whether it may begin again from what is left where it went back, epoch that was
-- issued, if one was.
local o = redis.call('HMGET', KEYS[1], 'i', 'e', 'o', 'u', 't', 'c', 'f', 'b', 'n')
if not o[1] then return false end
if o[1] ~= ARGV[1] then return {ok = 'it belongs to another store'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if o[3] and o[3] ~= ARGV[2] and tonumber(o[4]) > now then return o[3] end
local trimmed, checkpointed = tonumber(o[5]), tonumber(o[6])
local next = trimmed + redis.call('LLEN', KEYS[2]) + 1
local cursor, lowest = 0, nil
for _, at in ipairs(redis.call('HVALS', KEYS[3])) do
  cursor = math.max(cursor, tonumber(at))
  lowest = math.min(lowest or tonumber(at), tonumber(at))
end
local spooled, beyond = 0, {}
for _, entry in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  -- An entry ends with twenty digits.
  local ends = tonumber(string.sub(entry, -20))
  spooled = math.max(spooled, ends)
  if ends >= next then beyond[#beyond + 1] = entry end
end
local forgiven = trimmed <= checkpointed and ARGV[4] == '1'
if not forgiven and (checkpointed >= next or trimmed > checkpointed or cursor >= next or spooled >= next) then
  return {ok = string.format(
    'it went back: its log is trimmed up to %.0f and goes on at %.0f, its checkpoint is at %.0f, a sink has sent %.0f, a spool ends at %.0f',
    trimmed, next, checkpointed, cursor, spooled)}
end
-- Where nobody issues epochs, the time makes one that a failover or a restored copy forgot come back as a higher one, never as the same.
local epoch = ARGV[5] and tonumber(ARGV[5]) or math.max(tonumber(o[2]) + 1, now)
if epoch <= tonumber(o[2]) then return tonumber(o[2]) end
local lost, unsent = tonumber(o[8] or 0), 0
if checkpointed >= next then
  -- The checkpoint was written after the log went back. Which of the records that are left are in it nobody knows: all of them count as
  -- not yet checkpointed. To apply one again changes nothing, and sinks and lists find what they lack of them.
  lost = lost + checkpointed - next + 1
  if lowest then unsent = math.max(checkpointed - math.max(lowest, next - 1), 0) end
  checkpointed = trimmed
  redis.call('HSET', KEYS[1], 'c', string.format('%.0f', checkpointed), 'b', string.format('%.0f', lost))
end
if cursor >= next then
  -- What a sink has sent is lost; what comes in its place is to be sent.
  local cursors = redis.call('HGETALL', KEYS[3])
  for i = 1, #cursors, 2 do
    if tonumber(cursors[i + 1]) >= next then redis.call('HSET', KEYS[3], cursors[i], string.format('%.0f', next - 1)) end
  end
end
for _, entry in ipairs(beyond) do
  -- The log still has what is left of the records that it stands for: nothing is trimmed for it.
  redis.call('HDEL', KEYS[5], entry)
  redis.call('ZREM', KEYS[4], entry)
end
redis.call('HSET', KEYS[1], 'e', string.format('%.0f', epoch), 'o', ARGV[2],
  'u', string.format('%.0f', now + tonumber(ARGV[3])))
local released = (o[2] ~= '0' and not o[3]) and 1 or 0
return {epoch, next, checkpointed, now, released, tonumber(o[7] or 1), lost, unsent, tonumber(o[9] or 0)}
