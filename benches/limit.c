/*
 * The least that a way into a root can cost: limit ROOT MIRROR COMMAND [ARGUMENT ...]
 *
 * One clone3(2) with mount, pid, ipc and uts namespaces, a private root, the root bound onto itself, proc, sys, a small dev, the
 * mirror bound read-only, pivot_root, exec, wait. No library, no allocation, no look at anything, nothing made safe: whoever is
 * as fast as this does nothing else.
 *
 * The least that a transaction with files laid over can cost: limit -o SCRATCH LIST ROOT MIRROR COMMAND [ARGUMENT ...]
 *
 * The same on an overlay whose upper and work directories are made and removed in SCRATCH, on the image's file system, with a
 * state file beside them; its topmost lower layer is a tmpfs with what LIST names, a line each: `d PATH` or `f PATH`, relative,
 * parents first.
 *
 * Compiled by scripts/bench with `cc -O2 -static -nostdlib`.
 */
#include <linux/mount.h>
#include <linux/sched.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
#else
#error "x86_64 and aarch64 only"
#endif
}

#define SYSTEM(name, a, b, c, d, e) call(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
#define AT_FDCWD_ (-100)
#define MS_RDONLY_ 1
#define MS_NOSUID_ 2
#define MS_NODEV_ 4
#define MS_NOEXEC_ 8
#define MS_REMOUNT_ 32
#define MS_BIND_ 4096
#define MS_REC_ 16384
#define MS_PRIVATE_ (1 << 18)
#define MNT_DETACH_ 2

static void must(long result, int where)
{
    if (result < 0)
        SYSTEM(exit_group, where, 0, 0, 0, 0);
}

static void node(const char *path, long minor)
{
    must(SYSTEM(mknodat, AT_FDCWD_, path, 0020666, (1 << 8) | minor, 0), 20);
}

#define AT_REMOVEDIR_ 0x200
#define O_RDONLY_ 0
#define O_NEW_ 0301 /* O_WRONLY, O_CREAT, O_EXCL */

static char *append(char *end, const char *text)
{
    while (*text)
        *end++ = *text++;
    *end = 0;
    return end;
}

static const char *join(char *buffer, const char *directory, const char *name)
{
    append(append(append(buffer, directory), "/"), name);
    return buffer;
}

static char path[4096], list[65536], options[16384], contents[4096];

static void make_file(const char *name, long bytes)
{
    long file = SYSTEM(openat, AT_FDCWD_, name, O_NEW_, 0644, 0);
    must(file, 50);
    must(SYSTEM(write, file, contents, bytes, 0, 0), 51);
    SYSTEM(close, file, 0, 0, 0, 0);
}

static void make_directory(const char *name)
{
    must(SYSTEM(mkdirat, AT_FDCWD_, name, 0755, 0, 0), 52);
}

static void remove_directory(const char *name)
{
    must(SYSTEM(unlinkat, AT_FDCWD_, name, AT_REMOVEDIR_, 0, 0), 53);
}

static void remove_file(const char *name)
{
    must(SYSTEM(unlinkat, AT_FDCWD_, name, 0, 0, 0), 54);
}

static void begin_transaction(const char *scratch)
{
    make_directory(scratch);
    make_directory(join(path, scratch, "upper"));
    make_directory(join(path, scratch, "work"));
    make_directory(join(path, scratch, "laid"));
    make_file(join(path, scratch, "state"), sizeof contents);
}

/* What overlayfs leaves in work/ is one directory, with the mark of a volatile mount in it. */
static void end_transaction(const char *scratch)
{
    remove_file(join(path, scratch, "work/work/incompat/volatile/dirty"));
    remove_directory(join(path, scratch, "work/work/incompat/volatile"));
    remove_directory(join(path, scratch, "work/work/incompat"));
    remove_directory(join(path, scratch, "work/work"));
    remove_directory(join(path, scratch, "work"));
    remove_directory(join(path, scratch, "upper"));
    remove_directory(join(path, scratch, "laid"));
    remove_file(join(path, scratch, "state"));
    remove_directory(scratch);
}

/* Mounts the overlay on the directory of its topmost layer. */
static void lay(const char *scratch, const char *names, const char *root)
{
    long file = SYSTEM(openat, AT_FDCWD_, names, O_RDONLY_, 0, 0);
    must(file, 60);
    long size = SYSTEM(read, file, list, sizeof list - 1, 0, 0);
    must(size, 61);
    SYSTEM(close, file, 0, 0, 0, 0);
    char *end = append(options, "volatile,index=off,xino=off,upperdir=");
    end = append(append(append(end, scratch), "/upper,workdir="), scratch);
    end = append(append(append(end, "/work,lowerdir="), scratch), "/laid:");
    append(end, root);
    must(SYSTEM(mount, "laid", join(path, scratch, "laid"), "tmpfs", MS_NODEV_, "mode=0755"), 62);
    must(SYSTEM(chdir, path, 0, 0, 0, 0), 63);
    for (char *line = list; *line;) {
        char *next = line;
        while (*next && *next != '\n')
            next++;
        if (*next)
            *next++ = 0;
        if (*line == 'd')
            make_directory(line + 2);
        else
            make_file(line + 2, 500);
        line = next;
    }
    must(SYSTEM(mount, "overlay", path, "overlay", 0, options), 64);
}

static void inside(const char *root, const char *mirror, char **command, char **environment)
{
    must(SYSTEM(chdir, root, 0, 0, 0, 0), 23);
    must(SYSTEM(mount, "proc", "proc", "proc", MS_NOSUID_ | MS_NODEV_ | MS_NOEXEC_, 0), 24);
    must(SYSTEM(mount, "sys", "sys", "sysfs", MS_RDONLY_ | MS_NOSUID_ | MS_NODEV_ | MS_NOEXEC_, 0), 25);
    must(SYSTEM(mount, "dev", "dev", "tmpfs", MS_NOSUID_, "mode=0755"), 26);
    node("dev/null", 3);
    node("dev/zero", 5);
    node("dev/full", 7);
    node("dev/random", 8);
    node("dev/urandom", 9);
    must(SYSTEM(symlinkat, "/proc/self/fd", AT_FDCWD_, "dev/fd", 0, 0), 27);
    must(SYSTEM(mount, mirror, "mnt", 0, MS_BIND_, 0), 28);
    must(SYSTEM(mount, 0, "mnt", 0, MS_BIND_ | MS_REMOUNT_ | MS_RDONLY_, 0), 29);
    must(SYSTEM(pivot_root, ".", ".", 0, 0, 0), 30);
    must(SYSTEM(umount2, ".", MNT_DETACH_, 0, 0, 0), 31);
    must(SYSTEM(chdir, "/", 0, 0, 0, 0), 32);
    must(SYSTEM(execve, command[0], command, environment, 0, 0), 33);
}

__attribute__((used)) static void run(long *stack)
{
    char **arguments = (char **)(stack + 1);
    char **environment = arguments + stack[0] + 1;
    struct clone_args how = { .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS, .exit_signal = 17 };
    int status = 0;
    int laid = stack[0] > 1 && arguments[1][0] == '-' && arguments[1][1] == 'o';
    if (stack[0] < (laid ? 7 : 4))
        SYSTEM(exit_group, 2, 0, 0, 0, 0);
    char **rest = arguments + (laid ? 4 : 1);
    if (laid)
        begin_transaction(arguments[2]);
    long child = SYSTEM(clone3, &how, sizeof how, 0, 0, 0);
    must(child, 40);
    if (child == 0) {
        must(SYSTEM(mount, 0, "/", 0, MS_REC_ | MS_PRIVATE_, 0), 21);
        if (laid)
            lay(arguments[2], arguments[3], rest[0]);
        else
            must(SYSTEM(mount, rest[0], rest[0], 0, MS_BIND_, 0), 22);
        inside(laid ? path : rest[0], rest[1], rest + 2, environment);
    }
    must(SYSTEM(wait4, child, &status, 0, 0, 0), 41);
    if (laid)
        end_transaction(arguments[2]);
    SYSTEM(exit_group, (status >> 8) & 255, 0, 0, 0, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall run\n");
#else
__asm__(".globl _start\n_start: mov x0, sp\nbl run\n");
#endif
