/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Global per-CPU variables and other data sections through the skeleton of data.bpf.c, on each virtual CPU. */
#include <stdbool.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "check.h"
#include "data.skel.h"

static void run_on(struct bpf_program *prog, unsigned int cpu, int times)
{
	SAME(run_on_cpu(bpf_program__fd(prog), cpu, times), 2);
}

static void read_cpu(struct bpf_map *map, unsigned int cpu, void *value)
{
	__u32 zero = 0;

	SAME(bpf_map__lookup_elem(map, &zero, sizeof(zero), value, bpf_map__value_size(map),
				  BPF_F_CPU | (__u64)cpu << 32),
	     0);
}

static int set_port(struct data_bpf *skel)
{
	/* `const` in the program, not for who sets it. */
	*(__u16 *)(void *)&skel->rodata->port = 5;
	return 0;
}

int main(void)
{
	struct data_bpf *skel;
	struct skep_opts engine = { sizeof(engine), 3, SKEP_MODE_JIT };
	char image[64], *histogram;
	/* C++ knows the struct as a part of data_bpf. */
	__typeof__(skel->percpu) one = (__typeof__(skel->percpu))(void *)image;
	int *counter;
	size_t size;
	int err, expected;

	SAME(skep_configure(&engine), 0);
	skel = data_bpf__open();
	CHECK(skel && skel->percpu && skel->percpu_looooooooong && skel->data && skel->bss && skel->rodata);
	SAME(skel->percpu->hits, 11);
	SAME(skel->percpu->tag, 'x');
	SAME(skel->percpu_looooooooong->histogram[3], 4);
	skel->percpu->hits = 1000;
	skel->percpu->per_cpu_config.limit = 50;
	skel->percpu_looooooooong->histogram[0] = 6;
	skel->data->counter = 1;
	set_port(skel);
	counter = &skel->data->counter;

	/* Of a wrong size nothing is taken. */
	memset(image, 0, sizeof(image));
	size = bpf_map__value_size(skel->maps.percpu);
	SAME(size, 25);
	SAME(bpf_map__set_initial_value(skel->maps.percpu, image, sizeof(image)), -EINVAL);
	SAME(skel->percpu->hits, 1000);

	err = data_bpf__load(skel);
	SAME(err, 0);
	SAME(data_bpf__attach(skel), 0);
	SAME(libbpf_num_possible_cpus(), 3);

	for (unsigned int cpu = 0; cpu < 3; cpu++)
		run_on(skel->progs.use, cpu, (int)cpu + 1);
	for (unsigned int cpu = 0; cpu < 3; cpu++) {
		read_cpu(skel->maps.percpu, cpu, image);
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
	SAME(skel->bss->table[0], 6);
	skel->bss->table[0] = 100;
	run_on(skel->progs.use, 1, 1);
	SAME(skel->bss->table[0], 101);

	/* The image shows what there was at first, and is no longer to be written; nor are constants. */
	SAME(skel->percpu->hits, 1000);
	SAME(skel->percpu->seen, 0);
	SAME(skel->rodata->port, 5);
	CHECK(FAULTS(skel->percpu->hits = 1));
	CHECK(FAULTS(set_port(skel)));
	CHECK(!FAULTS(skel->data->counter = 1));
	SAME(bpf_map__set_initial_value(skel->maps.percpu, image, size), -EBUSY);

	/* One value for all, in the section whose name is cut. */
	CHECK(!strcmp(bpf_map__name(skel->maps.percpu_looooooooong), ".percpu.looooooooong"));
	size = bpf_map__value_size(skel->maps.percpu_looooooooong);
	histogram = (char *)calloc(1, size);
	expected = 0;
	SAME(bpf_map__update_elem(skel->maps.percpu_looooooooong, &expected, 4, histogram, size, BPF_F_ALL_CPUS), 0);
	read_cpu(skel->maps.percpu, 2, image);
	expected = (int)one->per_cpu_config.limit;
	run_on(skel->progs.use, 2, 1);
	read_cpu(skel->maps.percpu, 2, image);
	SAME(one->per_cpu_config.limit, expected);
	free(histogram);
	data_bpf__destroy(skel);
	data_bpf__destroy(NULL);
	printf("ok\n");
	return 0;
}
