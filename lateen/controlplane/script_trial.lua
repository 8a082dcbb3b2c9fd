-- Loads a script to see whether it loads, as Envoy's Lua filter would, but where it can do nothing: without os, io, require, ffi, load
-- and whatever else reaches the host or Lua itself. Those are nil here. An error after a script has looked at one of them says
-- nothing about how it fares in a proxy, and is not told. plugin_trial.py puts the script in the place of CODE.
local known = {
  "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawset", "select", "setmetatable",
  "tonumber", "tostring", "type", "unpack", "xpcall", "_VERSION",
}
local env = { print = function() end }
for _, name in ipairs(known) do
  env[name] = _G[name]
end
for _, name in ipairs({ "bit", "coroutine", "math", "string", "table" }) do
  env[name] = {}
  for key, value in pairs(_G[name] or {}) do
    env[name][key] = value
  end
end
env._G = env

local real, looked = _G, false
setmetatable(env, {
  __index = function(_, name)
    looked = looked or real[name] ~= nil
    return nil
  end,
  __metatable = false,
})

local script, wrong = load(CODE, "script", "t", env)
if not script then
  error(wrong, 0)
end
local loaded, said = pcall(script)
if not loaded and not looked then
  error(tostring(said), 0)
end
