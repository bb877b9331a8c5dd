/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What attaches inside of a process: iterators to maps, extensions to functions of programs. */
#include <stdbool.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "check.h"
#include "map_iter.skel.h"
#include "policy.skel.h"
#include "policy_strict.skel.h"

static struct bpf_link *attach(struct bpf_program *prog, struct bpf_map *map)
{
	union bpf_iter_link_info info;
	struct bpf_iter_attach_opts opts;

	memset(&info, 0, sizeof(info));
	memset(&opts, 0, sizeof(opts));
	info.map.map_fd = bpf_map__fd(map);
	opts.sz = sizeof(opts);
	opts.link_info = &info;
	opts.link_info_len = sizeof(info);
	errno = 0;
	return bpf_program__attach_iter(prog, &opts);
}

static void writes(struct bpf_link *link, const char *expected)
{
	char text[256];
	int fd = bpf_iter_create(bpf_link__fd(link));
	ssize_t len;

	CHECK(fd > 0);
	len = read(fd, text, sizeof(text) - 1);
	CHECK(len >= 0);
	text[len] = 0;
	if (strcmp(text, expected))
		fprintf(stderr, "%s", text);
	CHECK(!strcmp(text, expected));
	SAME(read(fd, text, sizeof(text)), 0);
	CHECK(write(fd, text, 1) < 0 && errno == EPERM);
	SAME(close(fd), 0);
}

static void iterators(void)
{
	struct map_iter_bpf *skel = map_iter_bpf__open();
	struct bpf_iter_attach_opts opts;
	struct bpf_link *link;
	int before, fd;

	CHECK(skel);
	CHECK(!attach(skel->progs.dump, skel->maps.slots) && errno == EINVAL);
	SAME(map_iter_bpf__load(skel), 0);
	for (__u32 key = 0; key < 4; key++) {
		__u64 value = key * 100;

		SAME(bpf_map__update_elem(skel->maps.slots, &key, sizeof(key), &value, sizeof(value), BPF_ANY), 0);
	}
	before = open_files();
	link = attach(skel->progs.dump, skel->maps.slots);
	CHECK(link);
	writes(link, "slots has 4 entries\n0: 0\n1: 100\n2: 200\n3: 300\nend after 3\n");
	SAME(skel->bss->sum, 600);
	/* Each walk shows what there is then. */
	for (__u32 key = 0; key < 4; key++) {
		__u64 value = 7;

		SAME(bpf_map__update_elem(skel->maps.slots, &key, sizeof(key), &value, sizeof(value), BPF_ANY), 0);
	}
	writes(link, "slots has 4 entries\n0: 7\n1: 7\n2: 7\n3: 7\nend after 3\n");
	SAME(bpf_link__detach(link), -EOPNOTSUPP);
	fd = bpf_link__fd(link);
	SAME(bpf_link__destroy(link), 0);
	SAME(bpf_iter_create(fd), -EBADF);
	SAME(open_files(), before);

	/* What the kernel refuses when an iterator is attached, and when it is read. */
	CHECK(!bpf_program__attach_iter(skel->progs.dump, NULL) && errno == EBADF);
	memset(&opts, 0, sizeof(opts));
	opts.sz = sizeof(opts);
	CHECK(!bpf_program__attach_iter(skel->progs.dump, &opts) && errno == EBADF);
	CHECK(!bpf_program__attach_iter(NULL, &opts) && errno == EINVAL);
	CHECK(!attach(skel->progs.two_cpus, skel->maps.slots) && errno == EACCES);
	CHECK(!attach(skel->progs.dump, skel->maps.queue) && errno == EINVAL);
	CHECK(!attach(skel->progs.hit, skel->maps.slots) && errno == EINVAL);
	CHECK(!bpf_program__attach(skel->progs.dump) && errno == EBADF);
	SAME(map_iter_bpf__attach(skel), -EBADF);
	SAME(bpf_iter_create(bpf_map__fd(skel->maps.slots)), -EINVAL);
	SAME(bpf_iter_create(-1), -EBADF);
	link = attach(skel->progs.flood, skel->maps.slots);
	CHECK(link);
	SAME(bpf_iter_create(bpf_link__fd(link)), -E2BIG);
	SAME(bpf_link__destroy(link), 0);
	SAME(open_files(), before);
	map_iter_bpf__destroy(skel);
}

static int run(struct bpf_program *prog)
{
	return run_on_cpu(bpf_program__fd(prog), 0, 1);
}

/* IPv4 alone passes the extension, and the packet is none. */
enum { DROP = 1, PASS = 2 };

static void extensions(void)
{
	struct policy_bpf *policy = policy_bpf__open_and_load();
	struct policy_strict_bpf *strict = policy_strict_bpf__open();
	struct bpf_program *filter;
	struct bpf_link *link;
	__u64 counted[8];
	__u32 zero = 0;
	int fd;

	CHECK(policy && strict);
	filter = policy->progs.filter;
	fd = bpf_program__fd(filter);
	SAME(bpf_program__set_attach_target(strict->progs.strict, 0, "decide"), -EINVAL);
	SAME(bpf_program__set_attach_target(strict->progs.strict, fd, "nothing"), -ENOENT);
	SAME(bpf_program__set_attach_target(strict->progs.strict, bpf_map__fd(policy->maps.percpu), "decide"), -EINVAL);
	SAME(bpf_program__set_attach_target(filter, fd, "decide"), -EOPNOTSUPP);
	SAME(bpf_program__set_attach_target(strict->progs.strict, fd, NULL), 0);
	CHECK(!bpf_program__attach(strict->progs.strict) && errno == EINVAL);
	SAME(bpf_map__reuse_fd(strict->maps.percpu, bpf_map__fd(policy->maps.percpu)), 0);
	SAME(policy_strict_bpf__load(strict), 0);
	SAME(bpf_program__set_attach_target(strict->progs.strict, fd, "decide"), -EINVAL);

	SAME(run(filter), PASS);
	link = bpf_program__attach(strict->progs.strict);
	CHECK(link && bpf_link__fd(link) > 0);
	SAME(run(filter), DROP);
	SAME(bpf_iter_create(bpf_link__fd(link)), -EINVAL);
	CHECK(!bpf_program__attach(strict->progs.strict) && errno == EBUSY);
	SAME(bpf_link__destroy(link), 0);
	SAME(run(filter), PASS);
	/* Both count in the filter's variables: three decisions, one of them the extension's. */
	memset(counted, 0, sizeof(counted));
	for (int cpu = 0; cpu < libbpf_num_possible_cpus(); cpu++) {
		__u64 values[8];

		SAME(bpf_map__lookup_elem(policy->maps.percpu, &zero, sizeof(zero), values, sizeof(values),
					  BPF_F_CPU | (__u64)cpu << 32),
		     0);
		for (int at = 0; at < 8; at++)
			counted[at] += values[at];
	}
	SAME(counted[PASS], 2);
	SAME(counted[DROP], 1);
	SAME(counted[7], 1);

	CHECK(!bpf_program__attach_freplace(strict->progs.strict, fd, NULL) && errno == EINVAL);
	CHECK(!bpf_program__attach_freplace(strict->progs.strict, 0, "decide") && errno == EINVAL);
	CHECK(!bpf_program__attach_freplace(strict->progs.strict, fd, "filter") && errno == EINVAL);
	CHECK(!bpf_program__attach_freplace(filter, 0, NULL) && errno == EINVAL);
	CHECK(!bpf_program__attach(filter) && errno == EOPNOTSUPP);
	for (int named = 0; named < 2; named++) {
		link = bpf_program__attach_freplace(strict->progs.strict, named ? fd : 0, named ? "decide" : NULL);
		CHECK(link);
		SAME(run(filter), DROP);
		SAME(bpf_link__destroy(link), 0);
		SAME(run(filter), PASS);
	}

	SAME(policy_strict_bpf__attach(strict), 0);
	CHECK(strict->links.strict);
	SAME(run(filter), DROP);
	policy_strict_bpf__detach(strict);
	CHECK(!strict->links.strict);
	SAME(run(filter), PASS);
	bpf_program__set_autoattach(strict->progs.strict, false);
	SAME(policy_strict_bpf__attach(strict), 0);
	CHECK(!strict->links.strict);

	/* A link that was let go of stays, with what it needs. */
	link = bpf_program__attach(strict->progs.strict);
	bpf_link__disconnect(link);
	SAME(bpf_link__destroy(link), 0);
	policy_strict_bpf__destroy(strict);
	SAME(run(filter), DROP);
	policy_bpf__destroy(policy);

	/* An extension of which nobody said what it replaces. */
	strict = policy_strict_bpf__open();
	SAME(policy_strict_bpf__load(strict), -EINVAL);
	policy_strict_bpf__destroy(strict);
}

int main(void)
{
	iterators();
	extensions();
	printf("ok\n");
	return 0;
}
