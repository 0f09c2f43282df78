/* peak.c: runs a program to its end and prints the most memory that it held, in bytes (what Linux calls VmHWM).
 * peak PROGRAM ARGUMENT...: the status is the program's. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct rusage use;
    int status = 0;
    if (argc < 2) return 2;
    pid_t child = fork();
    if (child < 0) return 1;
    if (child == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    if (wait4(child, &status, 0, &use) != child) return 1;
    printf("%lld\n", (long long)use.ru_maxrss * 1024);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
