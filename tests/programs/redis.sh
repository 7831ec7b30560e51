# redis-server with redis-benchmark.
redis-server --port 6399 --save '' --daemonize no --dir /tmp > /tmp/redis.log 2>&1 &
for i in $(seq 50); do redis-cli -p 6399 ping 2>/dev/null | grep -q PONG && break; sleep 0.1; done
redis-cli -p 6399 set k v; redis-cli -p 6399 get k; redis-cli -p 6399 incr n; redis-cli -p 6399 lpush l a b c
redis-benchmark -p 6399 -n 2000 -c 10 -q -t set,get,lpush 2>/dev/null | tr '\r' '\n' | grep 'per second' | cut -d: -f1
redis-cli -p 6399 dbsize | cut -d' ' -f1 > /dev/null; redis-cli -p 6399 shutdown nosave; wait; echo "ended $?"
