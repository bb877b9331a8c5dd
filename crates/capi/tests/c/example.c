/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Any example, through its generated skeleton: every packet of the captures over every program, then what the maps hold.
 * Nothing in here is libskep's own, so the same source builds against libbpf and prints the same.
 *
 * SKELETON is the header, PREFIX its names, SETUP what to do before load, REPORT what to say at the end.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/types.h>

#include SKELETON

#define JOIN_(left, right) left##right
#define JOIN(left, right) JOIN_(left, right)
#define CALL(function) JOIN(PREFIX, function)

#ifndef SETUP
#define SETUP
#endif
#ifndef REPORT
#define REPORT
#endif

static size_t key_size;

static int by_bytes(const void *left, const void *right)
{
	return memcmp(left, right, key_size);
}

static void hex(const void *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		printf("%02x", ((const unsigned char *)data)[i]);
}

static int on_record(void *ctx, void *data, size_t size)
{
	printf("%s: ", (const char *)ctx);
	hex(data, size);
	printf("\n");
	return 0;
}

static bool is_percpu(enum bpf_map_type type)
{
	return type == BPF_MAP_TYPE_PERCPU_ARRAY || type == BPF_MAP_TYPE_PERCPU_HASH ||
	       type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

/* The entries by key; of per-CPU maps the sums of the values' words. */
static void dump(struct bpf_map *map, const char *name)
{
	size_t value_size = bpf_map__value_size(map), words = (value_size + 7) / 8, count = 0;
	int fd = bpf_map__fd(map), cpus = is_percpu(bpf_map__type(map)) ? libbpf_num_possible_cpus() : 1;
	unsigned char *keys = NULL, *last = NULL;
	__u64 *value = (__u64 *)calloc(words * cpus, 8);

	key_size = bpf_map__key_size(map);
	for (;;) {
		keys = (unsigned char *)realloc(keys, (count + 1) * key_size);
		last = count ? keys + (count - 1) * key_size : NULL;
		if (bpf_map_get_next_key(fd, last, keys + count * key_size))
			break;
		count++;
	}
	qsort(keys, count, key_size, by_bytes);
	printf("map %s: %zu entries\n", name, count);
	for (size_t i = 0; i < count; i++) {
		if (bpf_map_lookup_elem(fd, keys + i * key_size, value)) {
			printf("  no value: %d\n", errno);
			continue;
		}
		for (int cpu = 1; cpu < cpus; cpu++)
			for (size_t word = 0; word < words; word++)
				value[word] += value[cpu * words + word];
		printf("  ");
		hex(keys + i * key_size, key_size);
		printf(" ");
		hex(value, value_size);
		printf("\n");
	}
	free(keys);
	free(value);
}

static void run(struct bpf_program *prog, const void *packet, __u32 size)
{
	static unsigned char out[1 << 17];
	struct bpf_test_run_opts opts;
	int err;

	memset(&opts, 0, sizeof(opts));
	opts.sz = sizeof(opts);
	opts.data_in = packet;
	opts.data_size_in = size;
	opts.data_out = out;
	opts.data_size_out = sizeof(out);
	err = bpf_prog_test_run_opts(bpf_program__fd(prog), &opts);
	printf("%s: ", bpf_program__name(prog));
	if (err) {
		printf("error %d\n", err);
		return;
	}
	printf("%u %u ", opts.retval, opts.data_size_out);
	hex(out, opts.data_size_out);
	printf("\n");
}

/* A little-endian capture file. */
static void run_capture(struct bpf_object *obj, const char *path)
{
	static unsigned char packet[1 << 16];
	unsigned char header[24];
	struct bpf_program *prog;
	__u32 record[4];
	FILE *file = fopen(path, "rb");

	if (!file || fread(header, sizeof(header), 1, file) != 1) {
		perror(path);
		exit(1);
	}
	while (fread(record, sizeof(record), 1, file) == 1 && record[2] <= sizeof(packet) &&
	       fread(packet, record[2], 1, file) == 1) {
		bpf_object__for_each_program(prog, obj)
			run(prog, packet, record[2]);
	}
	fclose(file);
}

int main(int argc, char **argv)
{
	struct PREFIX *skel = CALL(__open)();
	struct bpf_map *map;
	char name[64];
	int err;

	if (!skel) {
		perror("open");
		return 1;
	}
	SETUP;
	err = CALL(__load)(skel);
	/* Programs for devices and sockets are attached by hand, so a skeleton attaches none of them. */
	if (!err)
		err = CALL(__attach)(skel);
	if (err) {
		fprintf(stderr, "load or attach: %d\n", err);
		return 1;
	}
	for (int i = 1; i < argc; i++)
		run_capture(skel->obj, argv[i]);
	bpf_object__for_each_map(map, skel->obj) {
		struct ring_buffer *records;

		snprintf(name, sizeof(name), "%s", bpf_map__name(map));
		if (bpf_map__type(map) == BPF_MAP_TYPE_RINGBUF) {
			records = ring_buffer__new(bpf_map__fd(map), on_record, name, NULL);
			printf("%s: %d records\n", name, records ? ring_buffer__poll(records, 0) : -errno);
			ring_buffer__free(records);
		} else if (bpf_map__type(map) != BPF_MAP_TYPE_PROG_ARRAY) {
			dump(map, name);
		}
	}
	REPORT;
	CALL(__detach)(skel);
	CALL(__destroy)(skel);
	return 0;
}
