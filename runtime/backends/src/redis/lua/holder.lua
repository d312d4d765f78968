-- KEYS: owner.
local o = redis.call('HMGET', KEYS[1], 'e', 'o', 'u', 'f')
if not o[1] then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {o[1], o[2] and tonumber(o[3]) > now and o[2], o[4]}
