/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Element commands on maps that are made by hand, and what they answer. Nothing in here is libskep's own: the same source
 * prints the same with libbpf on a kernel.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#define SAY(call)                                                                                                      \
	do {                                                                                                           \
		int result_ = (call);                                                                                  \
		printf("%s: %d\n", #call, result_);                                                                    \
	} while (0)

static int create(enum bpf_map_type type, const char *name, __u32 key, __u32 value, __u32 entries, __u32 flags, int inner)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = flags);
	int fd;

	opts.inner_map_fd = inner;
	fd = bpf_map_create(type, name, key, value, entries, &opts);
	printf("map %s: %d\n", name, fd < 0 ? fd : 0);
	return fd;
}

static int by_number(const void *left, const void *right)
{
	return *(const int *)left - *(const int *)right;
}

static void hash(void)
{
	LIBBPF_OPTS(bpf_map_batch_opts, batch);
	int fd = create(BPF_MAP_TYPE_HASH, "hash", 4, 8, 4, 0, 0);
	int keys[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, found[8], key = 0;
	__u64 values[8] = { 10, 20, 30, 40, 50, 60, 70, 80 }, value = 0;
	__u32 count = 3, cursor = 0;

	SAY(bpf_map_update_elem(fd, &keys[0], &values[0], BPF_EXIST));
	SAY(bpf_map_update_elem(fd, &keys[0], &values[0], BPF_NOEXIST));
	SAY(bpf_map_update_elem(fd, &keys[0], &values[0], BPF_NOEXIST));
	SAY(bpf_map_update_elem(fd, &keys[0], &values[0], 77));
	SAY(bpf_map_update_batch(fd, &keys[1], &values[1], &count, &batch));
	printf("count %u\n", count);
	SAY(bpf_map_update_elem(fd, &keys[4], &values[4], BPF_ANY));
	SAY(bpf_map_lookup_elem(fd, &keys[2], &value));
	printf("value %llu\n", (unsigned long long)value);
	SAY(bpf_map_lookup_elem(fd, &key, &value));
	SAY(bpf_map_lookup_elem_flags(fd, &keys[2], &value, BPF_F_LOCK));
	SAY(bpf_map_lookup_elem(fd, NULL, &value));
	SAY(bpf_map_lookup_and_delete_elem(fd, &keys[3], &value));
	printf("value %llu\n", (unsigned long long)value);
	count = 8;
	SAY(bpf_map_lookup_batch(fd, NULL, &cursor, found, values, &count, NULL));
	printf("count %u\n", count);
	qsort(found, count, sizeof(int), by_number);
	for (__u32 i = 0; i < count; i++)
		printf("key %d\n", found[i]);
	count = 2;
	SAY(bpf_map_delete_batch(fd, keys, &count, NULL));
	printf("count %u\n", count);
	SAY(bpf_map_delete_elem(fd, &keys[0]));
	SAY(bpf_map_delete_elem(fd, &keys[2]));
	SAY(bpf_map_get_next_key(fd, NULL, &key));
	SAY(bpf_map_freeze(fd));
	SAY(bpf_map_freeze(fd));
	SAY(bpf_map_update_elem(fd, &keys[0], &values[0], BPF_ANY));
	SAY(bpf_map_lookup_batch(-1, NULL, &cursor, found, values, &count, NULL));
	close(fd);
	SAY(bpf_map_lookup_elem(fd, &keys[0], &value));
}

static void array(void)
{
	int fd = create(BPF_MAP_TYPE_ARRAY, "array", 4, 12, 5, BPF_F_MMAPABLE, 0), key = 4, next;
	char value[12] = "hello array", *mapped;

	SAY(bpf_map_update_elem(fd, &key, value, BPF_ANY));
	SAY(bpf_map_update_elem(fd, &key, value, BPF_NOEXIST));
	mapped = (char *)mmap(NULL, 80, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	printf("mapped %s\n", mapped == MAP_FAILED ? "no" : mapped + 64);
	if (mapped == MAP_FAILED)
		return;
	strcpy(mapped, "first");
	key = 0;
	SAY(bpf_map_lookup_elem(fd, &key, value));
	printf("value %s\n", value);
	munmap(mapped, 80);
	SAY(bpf_map_get_next_key(fd, &key, &next));
	printf("next %d\n", next);
	key = 4;
	SAY(bpf_map_get_next_key(fd, &key, &next));
	key = 5;
	SAY(bpf_map_lookup_elem(fd, &key, value));
	SAY(bpf_map_update_elem(fd, &key, value, BPF_ANY));
	SAY(bpf_map_delete_elem(fd, &key));
	close(fd);
	create(BPF_MAP_TYPE_ARRAY, "no_entries", 4, 8, 0, 0, 0);
	create(BPF_MAP_TYPE_ARRAY, "key_of_8", 8, 8, 1, 0, 0);
	create(BPF_MAP_TYPE_ARRAY, "bad name", 4, 8, 1, 0, 0);
	create(BPF_MAP_TYPE_ARRAY, "bad_flag", 4, 8, 1, BPF_F_NO_PREALLOC, 0);
	create(BPF_MAP_TYPE_UNSPEC, "no_type", 4, 8, 1, 0, 0);
}

static void percpu(void)
{
	int fd = create(BPF_MAP_TYPE_PERCPU_ARRAY, "percpu", 4, 4, 2, 0, 0), key = 1, cpus = libbpf_num_possible_cpus();
	__u64 *values, sum = 0;

	if (cpus < 1) {
		printf("no CPUs\n");
		return;
	}
	values = (__u64 *)calloc(cpus, 8);
	for (int cpu = 0; cpu < cpus; cpu++)
		values[cpu] = cpu + 1;
	SAY(bpf_map_update_elem(fd, &key, values, BPF_ANY));
	memset(values, 0, 8 * cpus);
	SAY(bpf_map_lookup_elem(fd, &key, values));
	for (int cpu = 0; cpu < cpus; cpu++)
		sum += values[cpu] == (__u64)cpu + 1;
	printf("all there: %d\n", sum == (__u64)cpus);
	free(values);
	close(fd);
}

static void others(void)
{
	int inner = create(BPF_MAP_TYPE_ARRAY, "inner", 4, 4, 1, 0, 0), other = create(BPF_MAP_TYPE_ARRAY, "other", 4, 8, 1, 0, 0);
	int outer = create(BPF_MAP_TYPE_HASH_OF_MAPS, "outer", 4, 4, 2, 0, inner), key = 7, value = inner, zero = 0;
	int progs = create(BPF_MAP_TYPE_PROG_ARRAY, "progs", 4, 4, 2, 0, 0);
	int queue = create(BPF_MAP_TYPE_QUEUE, "queue", 0, 4, 2, 0, 0);
	struct bpf_map_info info;
	__u32 id, len = sizeof(info);

	memset(&info, 0, sizeof(info));
	SAY(bpf_obj_get_info_by_fd(inner, &info, &len));
	printf("len %u type %u name %s value_size %u\n", len >= 80, info.type, info.name, info.value_size);
	SAY(bpf_map_update_elem(outer, &key, &value, BPF_ANY));
	SAY(bpf_map_lookup_elem(outer, &key, &id));
	printf("its id: %d\n", id == info.id);
	SAY(bpf_map_update_elem(outer, &key, &other, BPF_ANY));
	value = 12345;
	SAY(bpf_map_update_elem(outer, &key, &value, BPF_ANY));
	SAY(bpf_map_update_elem(progs, &zero, &inner, BPF_ANY));
	SAY(bpf_map_lookup_elem(progs, &zero, &value));
	SAY(bpf_map_delete_elem(progs, &zero));
	close(inner);
	SAY(bpf_map_delete_elem(outer, &key));

	value = 1;
	SAY(bpf_map_update_elem(queue, NULL, &value, BPF_ANY));
	value = 2;
	SAY(bpf_map_update_elem(queue, NULL, &value, BPF_ANY));
	SAY(bpf_map_update_elem(queue, NULL, &value, BPF_ANY));
	SAY(bpf_map_update_elem(queue, &key, &value, BPF_ANY));
	SAY(bpf_map_lookup_elem(queue, NULL, &value));
	printf("value %d\n", value);
	SAY(bpf_map_lookup_and_delete_elem(queue, NULL, &value));
	SAY(bpf_map_lookup_and_delete_elem(queue, NULL, &value));
	printf("value %d\n", value);
	SAY(bpf_map_lookup_and_delete_elem(queue, NULL, &value));
	close(outer);
	close(other);
	close(progs);
	close(queue);
}

int main(void)
{
	libbpf_set_print(NULL);
	hash();
	array();
	percpu();
	others();
	return 0;
}
