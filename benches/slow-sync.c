/* slow-sync MICROSECONDS all|first COMMAND...    COMMAND on a disk whose every sync takes so much longer
 *
 * A disk that loses nothing with the power takes milliseconds for what a virtual one confirms at once. Each fsync, fdatasync,
 * syncfs and sync waits here before the kernel goes on with it: `all` of them, or those of the `first` process and its threads,
 * where the others' reach no disk (a volatile overlay). By seccomp(2), SECCOMP_RET_USER_NOTIF, Linux 5.5: nothing else of the
 * command is slower than before, which cannot be said of strace(1). Exits as the command does. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* As many syncs can wait at a time. */
#define WAITERS 8

static int listener;
static useconds_t longer;
static int first_only;
static pid_t first;

static void fail(const char *what)
{
    perror(what);
    exit(125);
}

static int listen_to_syncs(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_syncfs, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sync, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* The kernel tells the thread; what it belongs to is in /proc. */
static int of_first(unsigned thread)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%u", (int)first, thread);
    return thread == (unsigned)first || access(path, F_OK) == 0;
}

static void *wait_for_syncs(void *unused)
{
    (void)unused;
    for (;;) {
        struct seccomp_notif call = { 0 };
        struct seccomp_notif_resp answer = { 0 };
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) {
            /* A signal ended the call before it could be told, or nobody is left. */
            if (errno == EINTR || errno == ENOENT)
                continue;
            return NULL;
        }
        if (!first_only || of_first(call.pid))
            usleep(longer);
        answer.id = call.id;
        answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

int main(int count, char **words)
{
    int ready[2], status;
    if (count < 4 || (strcmp(words[2], "all") && strcmp(words[2], "first"))) {
        fprintf(stderr, "usage: slow-sync MICROSECONDS all|first COMMAND...\n");
        return 125;
    }
    longer = strtoul(words[1], NULL, 10);
    first_only = !strcmp(words[2], "first");
    if (pipe(ready) < 0)
        fail("pipe");
    /* One table of open files until the listener is in it. */
    first = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (first < 0)
        fail("clone");
    if (first == 0) {
        int filter = listen_to_syncs();
        if (write(ready[1], &filter, sizeof filter) != sizeof filter || filter < 0)
            fail("seccomp");
        if (unshare(CLONE_FILES) < 0)
            fail("unshare");
        close(filter);
        close(ready[0]);
        close(ready[1]);
        execvp(words[3], words + 3);
        fail(words[3]);
    }
    if (read(ready[0], &listener, sizeof listener) != sizeof listener || listener < 0)
        return 125;
    for (int i = 0; i < WAITERS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, wait_for_syncs, NULL))
            fail("pthread_create");
    }
    while (waitpid(first, &status, 0) < 0)
        if (errno != EINTR)
            fail("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
