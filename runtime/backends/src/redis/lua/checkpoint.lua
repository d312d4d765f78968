-- Applies a chunk whole or not at all: Redis takes nothing back, so the first pass only looks and plans.
-- KEYS: owner, live, timers, running, expiry, tombstones, heads, log; then segments, snapshot and archive of each execution.
-- Answers the number of what is kept outside the log with this chunk; a list of one text where what is stored does not reach what the chunk or
-- a row goes on from.
-- ARGV: epoch, that number as far as it was acknowledged before, reached or '', number of executions, their ids, then the rows.
local FIXED, BEFORE_IDS = 8, 4
local o = redis.call('HMGET', KEYS[1], 'e', 'c', 'n', 't')
if o[1] ~= ARGV[1] then return o[1] end
local chunks, follows = tonumber(o[3] or 0), tonumber(ARGV[2])
if chunks < follows then
  return {string.format('of what is kept outside its log %.0f was acknowledged, and %.0f is here', follows, chunks)}
end
local reached = ARGV[3] ~= '' and tonumber(ARGV[3])
local ends = o[4] + redis.call('LLEN', KEYS[8])
if reached and reached > ends then
  return {string.format('a checkpoint reaches %.0f, and its log ends at %.0f', reached, ends)}
end
local count = tonumber(ARGV[4])
local function number(text) return (struct.unpack('>I8', text)) end
local function segments_of(x) return KEYS[FIXED + 3 * x - 2] end
local function snapshot_of(x) return KEYS[FIXED + 3 * x - 1] end
local function archive_of(x) return KEYS[FIXED + 3 * x] end

-- What is stored of each execution, as it will be after the rows so far.
local id, kind, last, meta, expiry = {}, {}, {}, {}, {}
for x = 1, count do id[x] = ARGV[BEFORE_IDS + x] end
for from = 1, count, 1000 do
  local to = math.min(from + 999, count)
  local found = redis.call('HMGET', KEYS[2], unpack(id, from, to))
  for x = from, to do
    local live = found[x - from + 1]
    if live then
      kind[x], last[x], meta[x] = 'live', number(live), live
    else
      local archive = redis.call('GETRANGE', archive_of(x), 0, 15)
      if archive ~= '' then
        kind[x], last[x], expiry[x] = 'archive', number(archive), archive:sub(9)
      else
        local tombstone = redis.call('HGET', KEYS[6], id[x])
        if tombstone then kind[x], last[x] = 'tombstone', number(tombstone) end
      end
    end
  end
end

local writes = {}
local function write(...) writes[#writes + 1] = {...} end
local function unindex(x)
  local wait = meta[x]:byte(9)
  if wait == 48 then
    write('ZREM', KEYS[4], id[x])
  elseif wait == 49 then
    write('ZREM', KEYS[3], meta[x]:sub(10) .. id[x])
  end
end
local function index(x)
  local wait = meta[x]:byte(9)
  if wait == 48 then
    write('ZADD', KEYS[4], 0, id[x])
  elseif wait == 49 then
    write('ZADD', KEYS[3], 0, meta[x]:sub(10) .. id[x])
  end
end
local function hex(text)
  return (text:gsub('.', function(c) return string.format('%02x', c:byte()) end))
end

local at, rows = BEFORE_IDS + 1 + count, #ARGV
while at <= rows do
  local row = ARGV[at]
  if row == 'H' then
    write('HEAD', ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 2])
    at = at + 3
  else
    local x = tonumber(ARGV[at + 1])
    if row == 'L' then
      local first, new, segment, snapshot = tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
      local to, base = number(new), last[x] or 0
      if to > base then
        if kind[x] == 'archive' or kind[x] == 'tombstone' then
          return {string.format('execution %s ended at %.0f, yet has a live entry %.0f', hex(id[x]), base, to)}
        end
        if first > base + 1 then
          return {string.format(
            'execution %s is stored up to %.0f, the next segment begins at %.0f', hex(id[x]), base, first)}
        end
        if kind[x] == 'live' then unindex(x) end
        kind[x], last[x], meta[x] = 'live', to, new
        write('HSET', KEYS[2], id[x], new)
        index(x)
        write('RPUSH', segments_of(x), segment)
        if snapshot ~= '' then write('SET', snapshot_of(x), snapshot) end
      end
      at = at + 6
    elseif row == 'E' then
      local archive = ARGV[at + 2]
      local lived = kind[x] == 'live' and last[x] <= number(archive)
      if lived then
        unindex(x)
        write('HDEL', KEYS[2], id[x])
        write('DEL', snapshot_of(x))
      end
      if lived or not kind[x] then
        kind[x], last[x], meta[x], expiry[x] = 'archive', number(archive), nil, archive:sub(9, 16)
        write('SET', archive_of(x), archive)
        write('ZADD', KEYS[5], 0, expiry[x] .. id[x])
      end
      at = at + 3
    elseif row == 'R' then
      local new, segment, snapshot = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
      if kind[x] == 'archive' and last[x] == number(new) then
        write('ZREM', KEYS[5], expiry[x] .. id[x])
        write('DEL', archive_of(x))
        kind[x], meta[x], expiry[x] = 'live', new, nil
        write('HSET', KEYS[2], id[x], new)
        index(x)
        write('RPUSH', segments_of(x), segment)
        write('SET', snapshot_of(x), snapshot)
      end
      at = at + 5
    else
      return {ok = 'a row of a checkpoint is of no known kind'}
    end
  end
end

for _, command in ipairs(writes) do
  if command[1] == 'HEAD' then
    local known = redis.call('HGET', KEYS[7], command[2])
    if not known or tonumber(known) < command[3] then redis.call('HSET', KEYS[7], command[2], command[4]) end
  else
    redis.call(unpack(command))
  end
end
local moved = {'n', string.format('%.0f', chunks + 1)}
if reached and reached > tonumber(o[2]) then
  moved[3], moved[4] = 'c', ARGV[3]
end
redis.call('HSET', KEYS[1], unpack(moved))
return chunks + 1
