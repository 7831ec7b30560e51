# Static programs: busybox, and one linked with musl.
cd /tmp; mkdir b; cp /bin/busybox b/busybox; b/busybox echo hello; b/busybox sh -c 'for i in 1 2 3; do echo $i; done | b/busybox wc -l'
b/busybox ls -1 / | b/busybox head -3; b/busybox md5sum /bin/busybox | b/busybox wc -c; b/busybox false; echo $?
printf '#include <stdio.h>\n#include <pthread.h>\nstatic void *f(void *x){puts(x);return 0;}\nint main(void){pthread_t t;pthread_create(&t,0,f,"thread");pthread_join(t,0);return 5;}' > m.c
musl-gcc -static -o m m.c && ./m; echo $?
