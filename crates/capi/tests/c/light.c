/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The light skeleton of data.bpf.c: its loader program loads what the skeleton does, see percpu.c. */
#include <stdbool.h>

#include <bpf/bpf.h>

#include "check.h"
#include "data.lskel.h"

static void run_on(int prog_fd, unsigned int cpu, int times)
{
	SAME(run_on_cpu(prog_fd, cpu, times), 2);
}

static void read_cpu(int map_fd, unsigned int cpu, void *value)
{
	__u32 zero = 0;

	SAME(bpf_map_lookup_elem_flags(map_fd, &zero, value, BPF_F_CPU | (__u64)cpu << 32), 0);
}

static int set_port(struct data_bpf *skel)
{
	/* `const` in the program, not for who sets it. */
	*(__u16 *)(void *)&skel->rodata->port = 5;
	return 0;
}

static void loads_and_runs(void)
{
	struct data_bpf *skel = data_bpf__open();
	char image[64];
	__typeof__(skel->percpu) one = (__typeof__(skel->percpu))(void *)image;
	int *counter, expected;
	struct bpf_map_info info;
	__u32 len = sizeof(info);

	CHECK(skel && skel->percpu && skel->percpu_looooooooong && skel->data && skel->bss && skel->rodata);
	SAME(skel->percpu->hits, 11);
	SAME(skel->percpu_looooooooong->histogram[3], 4);
	skel->percpu->hits = 1000;
	skel->percpu->per_cpu_config.limit = 50;
	skel->percpu_looooooooong->histogram[0] = 6;
	skel->data->counter = 1;
	set_port(skel);
	counter = &skel->data->counter;
	SAME(data_bpf__load(skel), 0);
	SAME(data_bpf__attach(skel), 0);
	memset(&info, 0, sizeof(info));
	SAME(bpf_map_get_info_by_fd(skel->maps.rodata.map_fd, &info, &len), 0);
	CHECK(!strcmp(info.name, "data_bpf.rodata"));

	for (unsigned int cpu = 0; cpu < 3; cpu++)
		run_on(skel->progs.use.prog_fd, cpu, (int)cpu + 1);
	for (unsigned int cpu = 0; cpu < 3; cpu++) {
		read_cpu(skel->maps.percpu.map_fd, cpu, image);
		SAME(one->hits, 1000 + cpu + 1);
		SAME(one->tag, 'x' + cpu + 1);
		SAME(one->seen, 1);
		SAME(one->per_cpu_config.port, 8080);
		SAME(one->per_cpu_config.limit, 50 + 6 * (cpu + 1));
	}
	/* Shared by all: port 5, limit 1000, 2, 7, 1. */
	expected = 1 + 6 * (5 + 1000 + 2 + 7 + 1);
	SAME(skel->data->counter, expected);
	SAME(*counter, expected);
	SAME(skel->bss->zeroed, 6 * (77 + 3));
	skel->bss->table[0] = 100;
	run_on(skel->progs.use.prog_fd, 1, 1);
	SAME(skel->bss->table[0], 101);

	SAME(skel->percpu->hits, 1000);
	SAME(skel->rodata->port, 5);
	CHECK(FAULTS(skel->percpu->hits = 1));
	CHECK(FAULTS(set_port(skel)));
	CHECK(!FAULTS(skel->data->counter = 1));
	data_bpf__destroy(skel);
	data_bpf__destroy(NULL);
}

static void what_fails_leaves_nothing(void)
{
	static char log[4096], elsewhere[4096];
	struct data_bpf *skel = data_bpf__open();
	struct bpf_load_and_run_opts opts;
	__u64 nothing[2] = { 0, 0 };
	int before = open_files();

	/* Memory that the loader was not lent. */
	CHECK(skel);
	skel->maps.rodata.initial_value = (__u64)(unsigned long)elsewhere;
	SAME(data_bpf__load(skel), -EFAULT);
	SAME(skel->maps.percpu.map_fd, 0);
	SAME(skel->progs.use.prog_fd, 0);
	SAME(open_files(), before);
	skel->maps.rodata.initial_value = (__u64)(unsigned long)skel->rodata;
	SAME(data_bpf__load(skel), 0);
	CHECK(skel->progs.use.prog_fd > 0);
	data_bpf__destroy(skel);

	/* A loader that is no program, with a log that says why. */
	skel = data_bpf__open();
	CHECK(skel);
	skel->ctx.log_level = 1;
	skel->ctx.log_size = sizeof(log);
	skel->ctx.log_buf = (__u64)(unsigned long)log;
	memset(&opts, 0, sizeof(opts));
	opts.ctx = (struct bpf_loader_ctx *)skel;
	opts.data = opts.insns = nothing;
	opts.data_sz = opts.insns_sz = sizeof(nothing);
	CHECK(bpf_load_and_run(&opts) < 0);
	CHECK(opts.errstr && strstr(opts.errstr, "loader") && log[0] && strlen(log) < sizeof(log));
	opts.ctx->sz = 4;
	SAME(bpf_load_and_run(&opts), -EINVAL);
	opts.ctx = NULL;
	SAME(bpf_load_and_run(&opts), -EFAULT);
	data_bpf__destroy(skel);
}

static void a_log_has_what_programs_say(void)
{
	static char log[1 << 16];
	struct data_bpf *skel = data_bpf__open();

	CHECK(skel);
	skel->ctx.log_level = 1;
	skel->ctx.log_size = sizeof(log);
	skel->ctx.log_buf = (__u64)(unsigned long)log;
	SAME(data_bpf__load(skel), 0);
	CHECK(strstr(log, "processed "));
	data_bpf__destroy(skel);
}

static void memory_is_of_its_owner(void)
{
	char stack[8] = "";
	void *memory;

	CHECK(!skel_prep_map_data(stack, 4, 8) && errno == EINVAL);
	CHECK(!skel_prep_map_data(NULL, 4096, 8) && errno == EFAULT);
	memory = skel_prep_map_data("abcdefg", 8192, 8);
	CHECK(memory && !strcmp((const char *)memory, "abcdefg"));
	((char *)memory)[8191] = 1;
	SAME(skep_light_data_free((char *)memory + 4096), -EINVAL);
	SAME(skep_light_data_free(stack), -EINVAL);
	SAME(skep_light_data_free(memory), 0);
	SAME(skep_light_data_free(memory), -EINVAL);
	SAME(skep_light_data_free(NULL), 0);
}

static void maps_by_hand(void)
{
	int fd = skel_map_create(BPF_MAP_TYPE_HASH, "by_hand", 4, 8, 4), other;
	struct bpf_map_info info;
	__u32 key = 3, len = sizeof(info);
	__u64 value = 9, found = 0;

	CHECK(fd > 0);
	SAME(skel_map_update_elem(fd, &key, &value, BPF_ANY), 0);
	memset(&info, 0, sizeof(info));
	SAME(bpf_map_get_info_by_fd(fd, &info, &len), 0);
	other = skel_map_get_fd_by_id(info.id);
	CHECK(other > 0);
	SAME(bpf_map_lookup_elem(other, &key, &found), 0);
	SAME(found, 9);
	SAME(skel_map_delete_elem(other, &key), 0);
	SAME(skel_map_delete_elem(other, &key), -ENOENT);
	SAME(skel_map_freeze(fd), 0);
	SAME(skel_map_update_elem(fd, &key, &value, BPF_ANY), -EPERM);
	SAME(skel_raw_tracepoint_open("sys_enter", fd), -EOPNOTSUPP);
	SAME(skel_link_create(fd, 0, BPF_TRACE_ITER), -EOPNOTSUPP);
	SAME(skel_closenz(other), 0);
	SAME(skel_closenz(fd), 0);
	SAME(skel_closenz(0), -EINVAL);
}

int main(void)
{
	struct skep_opts engine = { sizeof(engine), 3, SKEP_MODE_JIT };
	int before;

	SAME(skep_configure(&engine), 0);
	loads_and_runs();
	before = open_files();
	loads_and_runs();
	a_log_has_what_programs_say();
	what_fails_leaves_nothing();
	memory_is_of_its_owner();
	maps_by_hand();
	SAME(open_files(), before);
	printf("ok\n");
	return 0;
}
