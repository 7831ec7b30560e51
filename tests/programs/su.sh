# su to another user and back.
useradd -m -s /bin/bash worker 2>/dev/null; id worker
su worker -c 'id; cd; pwd; echo mine > f; cat f; cat /etc/shadow; echo $?; touch /root/x; echo $?; kill -0 1; echo $?; ls -ld /tmp | cut -c1-10'
echo "back $(id -u)"; cat /home/worker/f; stat -c '%U %a' /home/worker/f
su worker -c 'grep -E "^(Uid|Gid|CapEff)" /proc/self/status'
cp /usr/bin/id /tmp/suid-id; chmod 4755 /tmp/suid-id; su worker -c '/tmp/suid-id -u; /tmp/suid-id -ru'
printf 'int geteuid(void);int puts(const char*);char*getenv(const char*);int main(){puts(geteuid()==0?"root":"user");return 0;}' > /tmp/e.c; gcc -o /tmp/e /tmp/e.c
printf 'int geteuid(void){return 77;}' > /tmp/l.c; gcc -shared -fPIC -o /tmp/l.so /tmp/l.c; chmod 4755 /tmp/e
su worker -c 'LD_PRELOAD=/tmp/l.so /tmp/e'; chmod 755 /tmp/e; su worker -c 'LD_PRELOAD=/tmp/l.so /tmp/e'
