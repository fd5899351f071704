/* A client that connects in one of the ways that scripts can't: `dial WAY ADDRESS PORT`.
 *
 * It sends a byte, waits for one, and prints the process that connected, the error or "ok", and getpeername's answer. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT 30
#endif

static struct sockaddr_storage to;
static socklen_t to_length;
static int s = -1, failed, sent;
static pid_t connected_by;

static int is(const char *way, const char *what) { return strstr(way, what) != NULL; }

static void die(const char *what) {
  perror(what);
  exit(2);
}

/* One request of io_uring, by hand: its libraries aren't everywhere. */
static int ring(int sqpoll, unsigned char opcode, unsigned char flags, void *address, unsigned long length) {
  struct io_uring_params p = {.flags = sqpoll ? IORING_SETUP_SQPOLL : 0};
  int fd = syscall(SYS_io_uring_setup, 4, &p);
  if (fd < 0) die("io_uring_setup");
  char *sq = mmap(0, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
  char *cq = mmap(0, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                  IORING_OFF_CQ_RING);
  struct io_uring_sqe *e =
      mmap(0, p.sq_entries * sizeof *e, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
  if (sq == MAP_FAILED || cq == MAP_FAILED || (void *)e == MAP_FAILED) die("mmap");
  memset(e, 0, sizeof *e);
  e->opcode = opcode;
  e->flags = flags;
  e->fd = s;
  e->addr = (unsigned long)address;
  if (opcode == IORING_OP_CONNECT)
    e->off = length;
  else {
    e->len = 1;
    e->msg_flags = MSG_FASTOPEN;
  }
  *(unsigned *)(sq + p.sq_off.array) = 0;
  __atomic_store_n((unsigned *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
  unsigned enter = IORING_ENTER_GETEVENTS | (sqpoll ? IORING_ENTER_SQ_WAKEUP : 0);
  if (syscall(SYS_io_uring_enter, fd, sqpoll ? 0 : 1, 1, enter, NULL, 0) < 0) die("io_uring_enter");
  while (__atomic_load_n((unsigned *)(cq + p.cq_off.tail), __ATOMIC_ACQUIRE) == 0) usleep(1000);
  return ((struct io_uring_cqe *)(cq + p.cq_off.cqes))->res;
}

static void plain(void) {
  connected_by = getpid();
  if (connect(s, (void *)&to, to_length)) failed = errno;
}

static void *in_thread(void *unused) {
  prctl(PR_SET_NAME, "a-thread");
  /* By now the main thread has ended, if it was to. */
  if (unused) usleep(200000);
  plain();
  return NULL;
}

static int in_clone(void *unused) {
  (void)unused;
  plain();
  return 0;
}

static void tell(void) {
  char byte = 'q', text[64] = "-";
  int port = 0;
  struct sockaddr_storage peer;
  socklen_t length = sizeof peer;
  if (!failed && !sent && send(s, &byte, 1, MSG_NOSIGNAL) != 1) failed = errno;
  if (!failed && recv(s, &byte, 1, 0) != 1) failed = errno ? errno : EPIPE;
  if (!getpeername(s, (void *)&peer, &length)) {
    struct sockaddr_in *v4 = (void *)&peer;
    struct sockaddr_in6 *v6 = (void *)&peer;
    int is_v4 = peer.ss_family == AF_INET;
    inet_ntop(peer.ss_family, is_v4 ? (void *)&v4->sin_addr : (void *)&v6->sin6_addr, text, sizeof text);
    port = ntohs(is_v4 ? v4->sin_port : v6->sin6_port);
  }
  printf("%d %s %s %d\n", connected_by, failed ? strerrorname_np(failed) : "ok", text, port);
  fflush(stdout);
}

static void *tell_in_thread(void *unused) {
  in_thread(unused);
  tell();
  exit(0);
}

int main(int count, char **arguments) {
  if (count != 4) return 2;
  const char *way = arguments[1];
  struct sockaddr_in *v4 = (void *)&to;
  struct sockaddr_in6 *v6 = (void *)&to;
  if (strchr(arguments[2], ':')) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(atoi(arguments[3]));
    inet_pton(AF_INET6, arguments[2], &v6->sin6_addr);
    to_length = sizeof *v6;
  } else {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(atoi(arguments[3]));
    inet_pton(AF_INET, arguments[2], &v4->sin_addr);
    to_length = sizeof *v4;
  }
  s = socket(to.ss_family, SOCK_STREAM, is(way, "mptcp") ? IPPROTO_MPTCP : 0);
  if (s < 0) die("socket");
  struct timeval patience = {30, 0};
  setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  connected_by = getpid();
  char byte = 'q';
  int one = 1, result = 0;
  if (is(way, "uring")) {
    int sqpoll = is(way, "sqpoll");
    if (is(way, "fastopen")) {
      struct iovec piece = {&byte, 1};
      struct msghdr message = {.msg_name = &to, .msg_namelen = to_length, .msg_iov = &piece, .msg_iovlen = 1};
      result = ring(sqpoll, IORING_OP_SENDMSG, 0, &message, 0);
      sent = result == 1;
      if (result == -EINPROGRESS) result = 0; /* Without a cookie the byte isn't taken, and sending it below waits. */
    } else {
      result = ring(sqpoll, IORING_OP_CONNECT, is(way, "async") ? IOSQE_ASYNC : 0, &to, to_length);
    }
    if (result < 0) failed = -result;
  } else if (is(way, "fastopen-send")) {
    if (sendto(s, &byte, 1, MSG_FASTOPEN, (void *)&to, to_length) == 1)
      sent = 1;
    else
      failed = errno;
  } else if (is(way, "fastopen-connect")) {
    if (setsockopt(s, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one)) die("TCP_FASTOPEN_CONNECT");
    plain();
  } else if (is(way, "leaderless")) {
    pthread_t thread;
    pthread_create(&thread, NULL, tell_in_thread, &one);
    pthread_exit(NULL);
  } else if (is(way, "thread")) {
    pthread_t thread;
    pthread_create(&thread, NULL, in_thread, NULL);
    pthread_join(thread, NULL);
  } else if (is(way, "clone")) {
    /* Another process that shares memory and descriptors. */
    static char stack[65536] __attribute__((aligned(16)));
    pid_t child = clone(in_clone, stack + sizeof stack, CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
    if (child < 0) die("clone");
    waitpid(child, NULL, 0);
  } else if (is(way, "vfork")) {
    if (!vfork()) {
      plain();
      _exit(0);
    }
  } else {
    plain();
  }
  if (is(way, "then-exit")) {
    printf("%d %s\n", connected_by, failed ? strerrorname_np(failed) : "ok");
    fflush(stdout);
    _exit(0);
  }
  tell();
  return 0;
}
