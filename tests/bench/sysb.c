#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <time.h>
#include <string.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/socket.h>
#include <sys/epoll.h>
#include <signal.h>
static double now(){struct timespec t;clock_gettime(CLOCK_MONOTONIC,&t);return t.tv_sec+t.tv_nsec*1e-9;}
#define T(name,n,body) {double ta_=now();for(int i=0;i<(n);i++){body;}double tb_=now();printf("%-28s %10.0f ns\n",name,(tb_-ta_)/(n)*1e9);fflush(stdout);}
static void*th(void*x){return 0;}
int main(int c,char**v){
 if(c>1&&!strcmp(v[1],"nop"))return 0;
 char b[65536];struct stat st;
 T("getppid",50000,syscall(SYS_getppid));
 T("clock_gettime(vdso)",100000,{struct timespec t;clock_gettime(CLOCK_MONOTONIC,&t);});
 int z=open("/dev/zero",O_RDONLY);T("read /dev/zero 1B",20000,read(z,b,1));
 int f=open("/tmp/f",O_RDWR|O_CREAT,0644);memset(b,1,sizeof b);write(f,b,65536);
 T("pread 4k tmp file",20000,pread(f,b,4096,0));
 T("pread 64k tmp file",5000,pread(f,b,65536,0));
 T("pwrite 4k",20000,pwrite(f,b,4096,0));
 int rf=open("/bin/ls",O_RDONLY);
 T("pread 4k rootfs",20000,pread(rf,b,4096,0));
 T("fstat",20000,fstat(f,&st));
 T("stat rootfs",10000,stat("/bin/ls",&st));
 T("open+close rootfs",10000,close(open("/bin/ls",O_RDONLY)));
 T("create+unlink tmp",3000,{int q=open("/tmp/g",O_CREAT|O_RDWR,0600);close(q);unlink("/tmp/g");});
 int p[2];pipe(p);T("pipe w+r self",10000,{write(p[1],"a",1);read(p[0],b,1);});
 {int a[2],d[2];pipe(a);pipe(d);pid_t q=fork();if(!q){char x;while(read(a[0],&x,1)==1)write(d[1],&x,1);_exit(0);}char x='a';T("pipe pingpong",3000,{write(a[1],&x,1);read(d[0],&x,1);});kill(q,9);waitpid(q,0,0);}
 int sv[2];socketpair(AF_UNIX,SOCK_STREAM,0,sv);T("unix sock w+r self",10000,{write(sv[1],"a",1);read(sv[0],b,1);});
 T("mmap+touch+munmap 4k",10000,{char*q=mmap(0,4096,3,MAP_PRIVATE|MAP_ANONYMOUS,-1,0);q[0]=1;munmap(q,4096);});
 T("mmap 64M touch all",1,{char*q=mmap(0,64<<20,3,MAP_PRIVATE|MAP_ANONYMOUS,-1,0);for(size_t k=0;k<(64<<20);k+=4096)q[k]=1;munmap(q,64<<20);});
 T("fork+wait",200,{pid_t q=fork();if(!q)_exit(0);waitpid(q,0,0);});
 T("pthread create+join",500,{pthread_t t;pthread_create(&t,0,th,0);pthread_join(t,0);});
 T("fork+exec self",100,{pid_t q=vfork();if(!q){execl(v[0],v[0],"nop",NULL);_exit(1);}waitpid(q,0,0);});
 unlink("/tmp/f");
}
