/*
 * Which functions of a program a command comes to: hot-functions BINARY MAP OUT COMMAND [ARGUMENT ...]
 *
 * BINARY has fixed addresses, MAP is its linker's map with a section for each function. COMMAND, and whatever it starts, is
 * traced; in each process that executes BINARY, a breakpoint stands at the start of each function and goes when it is first
 * met. Their sections' names are appended to OUT in the order in which they were met.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "x86_64 only: breakpoints are int3"
#endif

struct function {
    unsigned long start;
    char *name;
    unsigned char first;
    char met;
};

static struct function *functions;
static size_t count;
static struct stat binary;
static FILE *out;

static void fail(const char *what)
{
    perror(what);
    exit(125);
}

static int by_start(const void *a, const void *b)
{
    unsigned long x = ((const struct function *)a)->start, y = ((const struct function *)b)->start;
    return x < y ? -1 : x > y;
}

/* A section stands on a line " NAME ADDRESS SIZE FILE", or, with a long name, on two. */
static void read_map(const char *path)
{
    FILE *map = fopen(path, "r");
    char *line = NULL, *name = NULL;
    size_t room = 0, space = 0;
    if (!map)
        fail(path);
    while (getline(&line, &room, map) > 0) {
        unsigned long start, size;
        char *end = NULL;
        int first = strncmp(line, " .text.", 7) == 0;
        if (first) {
            free(name);
            name = strdup(line + 1);
            end = name + strcspn(name, " \n");
        }
        if (name && sscanf(first ? line + 1 + (end - name) : line, " 0x%lx 0x%lx", &start, &size) == 2) {
            if (end)
                *end = 0;
            if (start && size) {
                if (count == space)
                    functions = realloc(functions, (space = space * 2 + 1024) * sizeof *functions);
                if (!functions)
                    fail("realloc");
                functions[count++] = (struct function){ .start = start, .name = strdup(name) };
            }
            free(name);
            name = NULL;
        } else if (end) {
            *end = 0;
        } else {
            free(name);
            name = NULL;
        }
    }
    fclose(map);
    free(line);
    qsort(functions, count, sizeof *functions, by_start);
}

static void put_byte(pid_t pid, unsigned long at, unsigned char byte, unsigned char *old)
{
    unsigned long word = ptrace(PTRACE_PEEKTEXT, pid, at, 0);
    if (old)
        *old = word & 0xff;
    if (ptrace(PTRACE_POKETEXT, pid, at, (word & ~0xffUL) | byte) < 0)
        fail("PTRACE_POKETEXT");
}

static int runs_binary(pid_t pid)
{
    char link[64];
    struct stat now;
    snprintf(link, sizeof link, "/proc/%d/exe", pid);
    return stat(link, &now) == 0 && now.st_dev == binary.st_dev && now.st_ino == binary.st_ino;
}

static void stand(pid_t pid)
{
    for (size_t i = 0; i < count; i++)
        put_byte(pid, functions[i].start, 0xcc, &functions[i].first);
}

/* Whether the process stopped at one of ours. */
static int meet(pid_t pid)
{
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, pid, 0, &registers) < 0)
        return 0;
    struct function key = { .start = registers.rip - 1 };
    struct function *found = bsearch(&key, functions, count, sizeof key, by_start);
    if (!found)
        return 0;
    if (!found->met)
        fprintf(out, "%s\n", found->name);
    found->met = 1;
    put_byte(pid, found->start, found->first, NULL);
    registers.rip--;
    if (ptrace(PTRACE_SETREGS, pid, 0, &registers) < 0)
        fail("PTRACE_SETREGS");
    return 1;
}

int main(int argc, char **argv)
{
    int status, result = 125;
    if (argc < 5) {
        fprintf(stderr, "usage: hot-functions BINARY MAP OUT COMMAND [ARGUMENT ...]\n");
        return 125;
    }
    if (stat(argv[1], &binary) < 0)
        fail(argv[1]);
    read_map(argv[2]);
    out = fopen(argv[3], "a");
    if (!out)
        fail(argv[3]);
    pid_t first = fork();
    if (first < 0)
        fail("fork");
    if (first == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execvp(argv[4], argv + 4);
        fail(argv[4]);
    }
    waitpid(first, &status, 0);
    ptrace(PTRACE_SETOPTIONS, first, 0,
           PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, first, 0, 0);
    pid_t pid;
    while ((pid = waitpid(-1, &status, __WALL)) > 0) {
        if (!WIFSTOPPED(status)) {
            if (pid == first)
                result = WIFEXITED(status) ? WEXITSTATUS(status) : 125;
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_EXEC && runs_binary(pid))
            stand(pid);
        /* A new process stops once by itself. */
        if (event || signal == SIGSTOP || (signal == SIGTRAP && meet(pid)))
            signal = 0;
        ptrace(PTRACE_CONT, pid, 0, signal);
    }
    fclose(out);
    return result;
}
