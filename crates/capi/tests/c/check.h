/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the C tests say when something is not as it should be. */
#ifndef CHECK_H
#define CHECK_H

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);      \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

/* Both sides as numbers, shown when they differ. */
#define SAME(left, right)                                                                                              \
	do {                                                                                                           \
		long long left_ = (long long)(left), right_ = (long long)(right);                                      \
		if (left_ != right_) {                                                                                 \
			fprintf(stderr, "%s:%d: %s is %lld, %s is %lld (errno %d)\n", __FILE__, __LINE__, #left,       \
				left_, #right, right_, errno);                                                         \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

/* Whether a child that does it dies of SIGSEGV. */
#define FAULTS(statement)                                                                                              \
	({                                                                                                             \
		int status_ = 0;                                                                                       \
		pid_t child_ = fork();                                                                                 \
		if (!child_) {                                                                                         \
			statement;                                                                                     \
			_exit(0);                                                                                      \
		}                                                                                                      \
		waitpid(child_, &status_, 0);                                                                          \
		WIFSIGNALED(status_) && WTERMSIG(status_) == SIGSEGV;                                                  \
	})

/* How many descriptors the process has open. */
__attribute__((unused)) static int open_files(void)
{
	DIR *listing = opendir("/proc/self/fd");
	int count = 0;

	CHECK(listing);
	while (readdir(listing))
		count++;
	closedir(listing);
	return count;
}

/* Runs a program over an empty packet of 64 bytes, `times` times, on one virtual CPU; its last result. */
__attribute__((unused)) static int run_on_cpu(int prog_fd, unsigned int cpu, int times)
{
	static char packet[64];
	struct bpf_test_run_opts opts;

	memset(&opts, 0, sizeof(opts));
	opts.sz = sizeof(opts);
	opts.data_in = packet;
	opts.data_size_in = sizeof(packet);
	opts.repeat = times;
	opts.flags = BPF_F_TEST_RUN_ON_CPU;
	opts.cpu = cpu;
	SAME(bpf_prog_test_run_opts(prog_fd, &opts), 0);
	return (int)opts.retval;
}

#endif
