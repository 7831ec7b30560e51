// Routing netlink: what the pod's network looks like, and what malformed or forbidden questions get (netlink(7), rtnetlink(7)).
#include "sockets.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <net/if.h>

static int fd;
static char answer[65536];

static struct { struct nlmsghdr h; char body[256]; } request;

// Begins a request with a body of `size` bytes.
static void *begin(int type, int flags, int size) {
    memset(&request, 0, sizeof request);
    request.h.nlmsg_len = NLMSG_LENGTH(size);
    request.h.nlmsg_type = type;
    request.h.nlmsg_flags = flags;
    request.h.nlmsg_seq = 77;
    return request.body;
}

static void attribute(int type, const void *data, int size) {
    struct rtattr *a = (struct rtattr *)((char *)&request + NLMSG_ALIGN(request.h.nlmsg_len));
    a->rta_type = type;
    a->rta_len = RTA_LENGTH(size);
    memcpy(RTA_DATA(a), data, size);
    request.h.nlmsg_len = NLMSG_ALIGN(request.h.nlmsg_len) + RTA_ALIGN(a->rta_len);
}

static const char *address(int family, const void *bytes, int size) {
    static char text[64];
    if (family == AF_INET || family == AF_INET6) inet_ntop(family, bytes, text, sizeof text);
    else
        for (int i = 0; i < size && i < 16; i++) sprintf(text + 3 * i, "%02x:", ((const unsigned char *)bytes)[i]);
    return text;
}

static void attributes(struct rtattr *a, int length, int family, int kind) {
    for (; RTA_OK(a, length); a = RTA_NEXT(a, length)) {
        int type = a->rta_type & NLA_TYPE_MASK, size = RTA_PAYLOAD(a);
        if (kind == RTM_NEWLINK) {
            if (type == IFLA_IFNAME) printf(" name %s", (char *)RTA_DATA(a));
            if (type == IFLA_MTU) printf(" mtu %d", *(int *)RTA_DATA(a));
            if (type == IFLA_ADDRESS) printf(" address %s", address(0, RTA_DATA(a), size));
            if (type == IFLA_TXQLEN) printf(" queue %d", *(int *)RTA_DATA(a));
            if (type == IFLA_OPERSTATE) printf(" state %d", *(char *)RTA_DATA(a));
            if (type == IFLA_QDISC) printf(" discipline %s", (char *)RTA_DATA(a));
            if (type == IFLA_STATS) printf(" statistics");
        } else if (kind == RTM_NEWADDR) {
            if (type == IFA_ADDRESS) printf(" address %s", address(family, RTA_DATA(a), size));
            if (type == IFA_LOCAL) printf(" local %s", address(family, RTA_DATA(a), size));
            if (type == IFA_LABEL) printf(" label %s", (char *)RTA_DATA(a));
            if (type == IFA_FLAGS) printf(" flags %x", *(int *)RTA_DATA(a));
        } else if (kind == RTM_NEWROUTE) {
            if (type == RTA_DST) printf(" to %s", address(family, RTA_DATA(a), size));
            if (type == RTA_OIF) printf(" interface %d", *(int *)RTA_DATA(a));
            if (type == RTA_TABLE) printf(" table %d", *(int *)RTA_DATA(a));
            if (type == RTA_PREFSRC) printf(" source %s", address(family, RTA_DATA(a), size));
            if (type == RTA_PRIORITY) printf(" priority %d", *(int *)RTA_DATA(a));
        }
    }
}

static void show(struct nlmsghdr *h) {
    printf("type %d", h->nlmsg_type);
    // The port is the kernel's choice.
    printf(" flags %x sequence %d", h->nlmsg_flags, h->nlmsg_seq);
    struct sockaddr_nl own;
    socklen_t length = sizeof own;
    getsockname(fd, (struct sockaddr *)&own, &length);
    printf(" %s", h->nlmsg_pid == own.nl_pid ? "for us" : "for another");
    if (h->nlmsg_type == NLMSG_ERROR) {
        struct nlmsgerr *e = NLMSG_DATA(h);
        printf(" length %d error %s about %d length %d", (int)h->nlmsg_len, e->error ? check_error(-e->error) : "none", e->msg.nlmsg_type, (int)e->msg.nlmsg_len);
    } else if (h->nlmsg_type == NLMSG_DONE) {
        printf(" length %d", (int)h->nlmsg_len);
    } else if (h->nlmsg_type == RTM_NEWLINK) {
        struct ifinfomsg *i = NLMSG_DATA(h);
        printf(" family %d type %d index %d flags %x change %x", i->ifi_family, i->ifi_type, i->ifi_index, i->ifi_flags, i->ifi_change);
        attributes(IFLA_RTA(i), IFLA_PAYLOAD(h), 0, RTM_NEWLINK);
    } else if (h->nlmsg_type == RTM_NEWADDR) {
        struct ifaddrmsg *i = NLMSG_DATA(h);
        printf(" family %d prefix %d flags %x scope %d index %d", i->ifa_family, i->ifa_prefixlen, i->ifa_flags, i->ifa_scope, i->ifa_index);
        attributes(IFA_RTA(i), IFA_PAYLOAD(h), i->ifa_family, RTM_NEWADDR);
    } else if (h->nlmsg_type == RTM_NEWROUTE) {
        struct rtmsg *r = NLMSG_DATA(h);
        printf(" family %d to/%d table %d protocol %d scope %d type %d", r->rtm_family, r->rtm_dst_len, r->rtm_table, r->rtm_protocol, r->rtm_scope, r->rtm_type);
        attributes(RTM_RTA(r), RTM_PAYLOAD(h), r->rtm_family, RTM_NEWROUTE);
    }
    printf("\n");
}

// Reads answers up to an end.
static void answers(void) {
    for (;;) {
        errno = 0;
        ssize_t n = recv(fd, answer, sizeof answer, MSG_DONTWAIT);
        if (n < 0) { printf("no more: %s\n", check_error(errno)); return; }
        int left = n, ended = 0;
        for (struct nlmsghdr *h = (struct nlmsghdr *)answer; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            show(h);
            ended |= h->nlmsg_type == NLMSG_DONE;
        }
        if (ended) return;
    }
}

static void ask(const char *what) {
    struct sockaddr_nl kernel = {AF_NETLINK};
    printf("-- %s: %ld\n", what, (long)sendto(fd, &request, request.h.nlmsg_len, 0, ADDRESS(kernel)));
    answers();
}

int main(void) {
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    struct sockaddr_nl own = {AF_NETLINK};
    T(bind(fd, ADDRESS(own)));
    ready("fresh", fd);
    SECTION("dumps");
    begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct ifinfomsg));
    ask("links");
    begin(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct ifaddrmsg));
    ask("addresses");
    ((struct ifaddrmsg *)begin(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct ifaddrmsg)))->ifa_family = AF_INET6;
    ask("addresses of version 6");
    begin(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct rtmsg));
    ask("routes");
    ((struct rtmsg *)begin(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct rtmsg)))->rtm_family = AF_INET;
    ask("routes of version 4");
    begin(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct ndmsg));
    ask("neighbours");
    begin(RTM_GETRULE, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct rtmsg));
    printf("-- rules\n");
    struct sockaddr_nl kernel = {AF_NETLINK};
    T(sendto(fd, &request, request.h.nlmsg_len, 0, ADDRESS(kernel)) > 0);
    while (recv(fd, answer, sizeof answer, MSG_DONTWAIT) > 0) {}
    // The short form of glibc's if_nameindex.
    begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1);
    ask("a short one");
    SECTION("questions about one");
    ((struct ifinfomsg *)begin(RTM_GETLINK, NLM_F_REQUEST, sizeof(struct ifinfomsg)))->ifi_index = 1;
    ask("by index");
    begin(RTM_GETLINK, NLM_F_REQUEST, sizeof(struct ifinfomsg));
    attribute(IFLA_IFNAME, "lo", 3);
    ask("by name");
    begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, sizeof(struct ifinfomsg));
    attribute(IFLA_IFNAME, "lo", 3);
    ask("with an acknowledgement");
    begin(RTM_GETLINK, NLM_F_REQUEST, sizeof(struct ifinfomsg));
    attribute(IFLA_IFNAME, "none", 5);
    ask("an unknown name");
    ((struct ifinfomsg *)begin(RTM_GETLINK, NLM_F_REQUEST, sizeof(struct ifinfomsg)))->ifi_index = 99;
    ask("an unknown index");
    begin(RTM_GETLINK, NLM_F_REQUEST, sizeof(struct ifinfomsg));
    ask("nothing named");
    struct rtmsg *r = begin(RTM_GETROUTE, NLM_F_REQUEST, sizeof(struct rtmsg));
    r->rtm_family = AF_INET;
    r->rtm_dst_len = 32;
    attribute(RTA_DST, "\x7f\0\0\1", 4);
    ask("the way to loopback");
    r = begin(RTM_GETROUTE, NLM_F_REQUEST, sizeof(struct rtmsg));
    r->rtm_family = AF_INET;
    r->rtm_dst_len = 32;
    attribute(RTA_DST, "\x8\x8\x8\x8", 4);
    ask("the way to elsewhere");
    SECTION("bad requests");
    begin(RTM_GETLINK, 0, sizeof(struct ifinfomsg));
    ask("not a request");
    begin(RTM_GETLINK, NLM_F_ACK, sizeof(struct ifinfomsg));
    ask("not a request, but to be acknowledged");
    begin(RTM_GETLINK, NLM_F_REQUEST, 0);
    ask("no body");
    begin(9999, NLM_F_REQUEST, 16);
    ask("an unknown type");
    begin(5, NLM_F_REQUEST, 16);
    ask("a type of netlink's own");
    begin(NLMSG_NOOP, NLM_F_REQUEST, 0);
    ask("nothing");
    begin(NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, 0);
    ask("nothing, to be acknowledged");
    begin(RTM_GETLINK, NLM_F_REQUEST, sizeof(struct ifinfomsg));
    request.h.nlmsg_len = 4000;
    T(send(fd, &request, 32, 0));
    answers();
    request.h.nlmsg_len = 4;
    T(send(fd, &request, 32, 0));
    answers();
    T(send(fd, &request, 8, 0));
    answers();
    T(send(fd, &request, 0, 0));
    T(send(fd, (void *)8, 32, 0));
    SECTION("several in one");
    struct { struct nlmsghdr h; struct ifinfomsg i; } two[2];
    memset(two, 0, sizeof two);
    for (int i = 0; i < 2; i++) {
        two[i].h = (struct nlmsghdr){sizeof two[0], RTM_GETLINK, NLM_F_REQUEST, 100 + i, 0};
        two[i].i.ifi_index = i ? 99 : 1;
    }
    T(send(fd, two, sizeof two, 0));
    answers();
    SECTION("changes, without the right to");
    struct ifinfomsg *link = begin(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, sizeof(struct ifinfomsg));
    link->ifi_index = 1;
    ask("a link");
    begin(RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK, sizeof(struct ifaddrmsg));
    ask("an address");
    begin(RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK, sizeof(struct rtmsg));
    ask("a route");
    begin(RTM_NEWNEIGH, NLM_F_REQUEST, sizeof(struct ndmsg));
    ask("a neighbour");
    begin(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, sizeof(struct ifinfomsg));
    ask("to set a link");
    begin(RTM_DELADDR, 0, sizeof(struct ifaddrmsg));
    ask("no request at all");
    SECTION("reading");
    begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct ifinfomsg));
    T(send(fd, &request, request.h.nlmsg_len, 0) > 0);
    ready("an answer waits", fd);
    // A look at the length, as libmnl and iproute2 take it.
    IS(recv(fd, 0, 0, MSG_PEEK | MSG_TRUNC) > 100);
    struct sockaddr_nl from;
    struct iovec v = {answer, 16};
    struct msghdr m = {&from, sizeof from, &v, 1};
    T(recvmsg(fd, &m, MSG_PEEK));
    T(m.msg_flags);
    T(m.msg_namelen);
    T(from.nl_family);
    T(from.nl_pid);
    T(from.nl_groups);
    T(recvmsg(fd, &m, 0));
    T(m.msg_flags);
    while (recv(fd, answer, sizeof answer, MSG_DONTWAIT) > 0) {}
    SECTION("addresses");
    struct sockaddr_nl to = {AF_NETLINK, 0, 999999, 0};
    T(sendto(fd, &request, request.h.nlmsg_len, 0, ADDRESS(to)));
    to = (struct sockaddr_nl){AF_NETLINK, 0, 0, 1};
    T(sendto(fd, &request, request.h.nlmsg_len, 0, ADDRESS(to)));
    to.nl_family = AF_INET;
    T(sendto(fd, &request, request.h.nlmsg_len, 0, ADDRESS(to)));
    T(sendto(fd, &request, request.h.nlmsg_len, 0, (struct sockaddr *)&to, 4));
    T(connect(fd, ADDRESS(to)));
    to = (struct sockaddr_nl){AF_NETLINK};
    T(connect(fd, ADDRESS(to)));
    T(send(fd, &request, request.h.nlmsg_len, MSG_OOB));
    SECTION("groups");
    int group = RTNLGRP_LINK, other = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE);
    T(setsockopt(other, 270, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
    struct sockaddr_nl groups = {AF_NETLINK, 0, 0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR};
    T(bind(other, ADDRESS(groups)));
    socklen_t length = sizeof groups;
    T(getsockname(other, (struct sockaddr *)&groups, &length));
    T(groups.nl_groups);
    group = 0;
    T(setsockopt(other, 270, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
    group = 9999;
    T(setsockopt(other, 270, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
    ready("nothing happens", other);
    SECTION("as anybody");
    CHILD(setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
          begin(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct ifaddrmsg)); ask("addresses");
          begin(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, sizeof(struct ifinfomsg)); ask("a link"));
    SECTION("libc");
    struct if_nameindex *names = if_nameindex();
    for (struct if_nameindex *n = names; n && n->if_index; n++) printf("%d %s\n", n->if_index, n->if_name);
    T(if_nametoindex("lo"));
    T(if_nametoindex("none"));
    char name[IFNAMSIZ] = "";
    printf("%s\n", if_indextoname(1, name) ? name : "none");
    return 0;
}
