/*
 * The least that a container can cost: the namespaces, another root, a /proc, the program. No image, no union mount, no
 * control group, no seccomp filter, no state. Nothing that does more can be faster; bench/runtime prints it as the floor.
 *
 *	floor ROOTFS PROGRAM [ARG...]
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		_exit(125);
	}
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: floor ROOTFS PROGRAM [ARG...]\n");
		return 125;
	}
	const unsigned long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | SIGCHLD;
	long pid = syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
	must(pid, "clone");
	if (pid == 0) {
		must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make / private");
		must(mount(argv[1], argv[1], NULL, MS_BIND, NULL), "bind the root");
		must(chdir(argv[1]), "chdir");
		must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
		must(umount2(".", MNT_DETACH), "umount the old root");
		must(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount proc");
		must(sethostname("floor", 5), "sethostname");
		execv(argv[2], argv + 2);
		must(-1, argv[2]);
	}
	int status;
	must(waitpid(pid, &status, 0), "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
