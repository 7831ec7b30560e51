# Files, links, times, permissions.
set -u
mkdir -p /tmp/c && cd /tmp/c
mkdir -p a/b/c && touch a/b/c/f && find . | sort
echo hello > f; ln f hard; ln -s f soft; ln -s nowhere dangling
stat -c '%h %s %F' f soft; readlink soft; readlink -f soft; cat soft
cat dangling; echo $?
chmod 4755 f; stat -c '%a %A' f; chmod u-s,go= f; stat -c %a f
touch -d '2001-02-03 04:05:06 UTC' f; TZ=UTC stat -c '%y' f; TZ=UTC date -r f
cp -a f copy; TZ=UTC stat -c '%y %a' copy; cmp f copy && echo same
chown 1000:1000 f; stat -c '%u:%g' f; chown root:root f
mv f a/b/; ls a/b; mv -n hard a/b/f; ls | sort
mkdir full; touch full/x; rmdir full; echo $?; rm -r full
rm nothing; echo $?
ln -s /tmp/c/loop1 loop2; ln -s /tmp/c/loop2 loop1; cat loop1; echo $?
dd if=/dev/zero of=z bs=1k count=64 2>/dev/null; stat -c %s z; truncate -s 10 z; stat -c %s z
dd if=/dev/zero of=sparse bs=1 count=1 seek=1M 2>/dev/null; stat -c %s sparse
seq 1000 | split -l 300 - part; wc -l part* | tail -1
seq 10 | tac | head -3; seq 5 | shuf | sort -n | paste -sd,
yes | head -c 100000 | sha256sum
df . > /dev/null && echo df; du -s a > /dev/null && echo du
cd a/b/c && pwd && cd .. && pwd && cd ../../.. && pwd
test -w /etc/passwd && echo writable; test -x /bin/ls && echo executable
id; id -u nobody; whoami; groups
cat /nonexistent; cat /tmp; ls /proc/self/fd | wc -l > /dev/null
mkdir /tmp/sticky; chmod 1777 /tmp/sticky; stat -c %A /tmp/sticky
echo x > /dev/null; echo x > /dev/full; echo $?; head -c 4 /dev/zero | od -An -c; head -c 8 /dev/urandom | wc -c
timeout 0.2 sleep 5; echo $?
env -i A=1 env; nice -n 5 nice; nproc > /dev/null && echo nproc
flock /tmp/lock -c 'echo locked'
tee /tmp/t1 /tmp/t2 <<< tee > /dev/null; cat /tmp/t1 /tmp/t2
