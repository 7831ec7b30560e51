# ps, pgrep, pkill, top, free, uptime, vmstat, pmap, sysctl: what they make of /proc.
set -u
sleep 100 & one=$!
useradd -m worker 2>/dev/null; su worker -c 'exec sleep 200' & sleep 0.5
ps -eo user,stat,tty,args --sort args > /tmp/list; sed 's/ \+/ /g' /tmp/list
ps aux | awk '{print NF > 10 ? "line" : "short"}' | sort -u; ps -ef | head -1; ps -eLf | awk 'NR > 1 {print $6}' | sort -u
ps -o ppid=,stat=,nice=,comm= -p $one | sed "s/^ *$$ /parent /; s/ \+/ /g"; ps -o euser,ruser,fuser,group,args -C sleep | sed 's/ \+/ /g' | sort
ps -p 999999; echo "none $?"; ps -U worker -o args=; pgrep -c sleep; pgrep -u worker -l sleep | cut -d' ' -f2; pgrep -f 'sleep 100' > /dev/null && echo found; pidof sleep | wc -w
kill -STOP $one; sleep 0.1; ps -o stat= -p $one; kill -CONT $one; sleep 0.1; ps -o stat= -p $one
pkill -u worker sleep; sleep 0.2; pgrep -u worker || echo "no process of worker"
pkill -PIPE sleep; wait $one; echo "killed $?"
( sleep 0.1 & exec sleep 1 ) & sleep 0.5; ps -eo stat,args | grep -c '^Z.*defunct'; wait
( exec -a 'a new name' sleep 2 ) & sleep 0.2; ps -o args= -p $!; tr '\0' '|' < /proc/$!/cmdline; echo; cat /proc/$!/comm; kill $!; wait $! 2>/dev/null
renice -n 5 -p $$ > /dev/null; ps -o nice= -p $$; ionice -c 2 -n 3 ionice; ionice
top -b -n1 | head -7 | sed 's/[0-9.:]\+/N/g; s/ \+/ /g' | head -2; top -b -n1 | awk 'NR > 6 {print NF >= 12 ? "row" : $0}' | sort | uniq -c | wc -l
free | awk '{print $1, NF}'; free -m | awk 'NR == 2 {exit !($2 > 100 && $2 >= $3)}' && echo memory; uptime | grep -c 'load average'; uptime -p | cut -d' ' -f1; w -h | wc -l
vmstat | awk '{print NF}'; vmstat -s | sed 's/^ *[0-9]\+/N/' | head -3; nproc; getconf _NPROCESSORS_ONLN
sysctl -n kernel.ostype kernel.cap_last_cap kernel.ngroups_max fs.nr_open net.ipv4.ip_unprivileged_port_start; sysctl -w kernel.panic=1 2>&1; cat /proc/sys/kernel/hostname
pmap $$ | awk '{print $3, $4}' | grep -E 'bash|libc.so|ld-linux|stack' | sort -u; pwdx $$ | cut -d: -f2
cut -d' ' -f1,3,4,5 /proc/self/mountinfo | wc -l > /dev/null; awk '$2 == "/dev" {print $1, $3, $4}' /proc/mounts; awk '$5 == "/dev/shm" {print $4, $6, $8, $9}' /proc/self/mountinfo; findmnt -n -o TARGET,FSTYPE,OPTIONS /proc
lscpu | cut -d: -f1 | head -6; lsns -n -o TYPE | sort | tr '\n' ' '; echo; lsblk 2>&1 | grep -c nothing; dmesg 2>&1 > /dev/null | head -1
