# A static busybox, on its own.
cd /tmp; cp /bin/busybox bb; ./bb echo hello; ./bb sh -c 'for i in 1 2 3; do echo $i; done | ./bb wc -l'; ./bb ls -1 / | ./bb head -3; ./bb md5sum /bin/busybox | ./bb wc -c; ./bb false; echo $?
